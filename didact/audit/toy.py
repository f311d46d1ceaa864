"""A network of a recipe's architecture that is small enough to check every law in seconds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from didact.batch import Batch
from didact.data.corpus import Corpus
from didact.data.taught import LIKELIEST, REFERENCE, Taught, places
from didact.model.load import quiet
from didact.model.model import Model
from didact.model.scratch import build
from didact.model.settings import Scratch, Tune
from didact.model.tune import apply

WIDTH, HEADS, DEPTH, WINDOW = 64, 4, 2, 16
SHAPE = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS // 2,
    "head_dim": WIDTH // HEADS,
    "intermediate_size": 2 * WIDTH,
    "initializer_range": 0.1,
}
# Fields that change the equations and not the size are taken over from the model that the toy stands for.
SWITCHES = ("attention_bias", "mlp_bias", "hidden_act", "tie_word_embeddings", "use_sliding_window")
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def toy_network(
    architecture: str,
    given: Mapping[str, Any],
    tune: Tune,
    tokenizer: PreTrainedTokenizerFast,
    context: int,
    seed: int,
) -> Model:
    """A model on the CPU in fp32 like the one whose configuration has the fields ``given``, tuned as ``tune`` says.

    Sliding windows stay, shortened so that they slide at toy size; every kind of layer is there once.
    """
    net = build(_small(architecture, given), tokenizer, context, seed)
    last = None if tune.last is None else min(tune.last, net.config.get_text_config().num_hidden_layers)
    apply(net, tune.model_copy(update={"last": last}), tokenizer, seed)
    return Model(net)


def _small(architecture: str, given: Mapping[str, Any]) -> Scratch:
    with quiet():
        plain = CONFIG_MAPPING[architecture]()
    known = plain.to_dict().keys() | plain.attribute_map.keys()
    shape: dict[str, Any] = SHAPE | {name: given[name] for name in (*SWITCHES, *CAPS) if name in given}
    kinds = list(dict.fromkeys(given.get("layer_types") or ()))
    shape["num_hidden_layers"] = max(DEPTH, len(kinds))
    if kinds:
        shape["layer_types"] = (kinds * DEPTH)[: shape["num_hidden_layers"]]
    if given.get("sliding_window"):
        shape["sliding_window"] = WINDOW
    if given.get("num_key_value_heads") == given.get("num_attention_heads"):
        shape["num_key_value_heads"] = HEADS
    return Scratch(architecture=architecture, size="1M", config={k: v for k, v in shape.items() if k in known})


def toy_teacher(corpus: Corpus, top: int, size: int) -> Corpus:
    """The corpus with the columns of a made-up teacher, which is all but sure of the tokens that are there.

    With ``top`` 0 it is a reference, which is sure of nothing.
    """
    if top == 0:
        found = np.log(0.02 + 0.01 * np.random.default_rng(0).random(int(np.sum(corpus.trained)))).astype(np.float32)
        return replace(corpus, taught=Taught(dict.fromkeys(REFERENCE, found), places(corpus.trained)))
    k = min(top, size)
    token = (np.asarray(corpus.token)[corpus.trained][:, None] + np.arange(k)) % size
    logprob = np.log(np.full(token.shape, 0.02 / k)).astype(np.float32)
    logprob[:, 0] = np.log(0.97)
    return replace(corpus, taught=Taught(dict(zip(LIKELIEST, (token, logprob), strict=True)), places(corpus.trained)))


def toy_acted(batch: Batch, near: Tensor | None = None) -> Batch:
    """Prompts with answers, with the columns of answers that a model gave itself: all made up out of the tokens.

    ``near`` [B, T] are log-probabilities of the tokens, each in its place, which the sampler's are to be near.
    """
    chosen, token = batch["trained"].float(), batch["token"].float()
    old = -1.5 - token.sin() if near is None else near + 0.1 * token.sin()
    columns = {"behaviour": old, "reference": old + 0.2 * (2 * token).cos(), "advantage": (3 * token).sin()}
    columns |= {"value_old": (5 * token).sin(), "return": (7 * token).cos()}
    each = torch.ones_like(batch["score"])
    return batch.with_(
        **{name: column * chosen for name, column in columns.items()},  # pyrefly: ignore[bad-argument-type]
        **dict.fromkeys(("finished", "distinct", "mismatch", "explained_variance"), each),  # pyrefly: ignore[bad-argument-type]
        beta=torch.full((batch.size,), 0.1, device=token.device),
    )
