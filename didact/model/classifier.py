"""Reward models as folders: a sequence classifier of transformers with one number for a text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from didact.errors import DataProblem, UsageProblem
from didact.model import attention
from didact.model.encoder import encodes
from didact.model.load import CONFIG, load, quiet, resolve
from didact.model.model import Model
from didact.model.save import save_model, standard_state
from didact.model.shards import read_json, shards
from didact.objective.base import Head
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Classifier:
    """A network whose head ``reward`` says what a text is worth, and ``facts`` it knows of itself."""

    model: Model
    renderer: Renderer
    facts: Mapping[str, Any]
    where: Path


def classifier(net: PreTrainedModel, weight: Tensor) -> PreTrainedModel:
    """The same body with one linear head, ``weight`` [D], on the last token.

    Raises UsageProblem for an architecture that transformers gives another kind of head.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

    config: Any = type(net.config).from_dict(net.config.to_dict())
    config.num_labels = 1
    what = f"{type(net).__name__} cannot be left as a classifier that reads the last token"
    problem = UsageProblem(what, remedy="train the reward model from a causal language model")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or encodes(config):
        raise problem
    with quiet():
        made: Any = AutoModelForSequenceClassification.from_config(config, dtype=net.dtype)
    if tuple(made.get_parameter("score.weight").shape) != (1, len(weight)):
        raise problem
    body, prefix = made.base_model, f"{made.base_model_prefix}."
    state = {name.removeprefix(prefix): tensor for name, tensor in standard_state(net).items()}
    with torch.no_grad():
        body.load_state_dict({name: state[name] for name in body.state_dict()})
        made.score.weight.copy_(weight[None])
    return made


def save_classifier(
    net: PreTrainedModel,
    weight: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    stops: Collection[int],
    folder: Path,
    facts: Mapping[str, Any],
    extra_files: Mapping[str, str] | None = None,
    template: str | None = None,
) -> None:
    """Writes the folder, and proves it by reading it back; ``facts`` go into its ``config.json``, under ``didact``.

    transformers reads the last token that is not padding, so padding becomes a token that ends nothing.
    """
    made: Any = classifier(net, weight)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_padding(tokenizer, stops))
    made.config.pad_token_id = tokenizer.pad_token_id
    made.config.didact = {"reward": dict(facts)}
    save_model(made, tokenizer, folder, template=template, extra_files=extra_files)


def _padding(tokenizer: PreTrainedTokenizerFast, stops: Collection[int]) -> int:
    ends = {*stops, tokenizer.eos_token_id}
    own = [token for token in (tokenizer.pad_token_id,) if token is not None]
    for token in (*own, *sorted(token for token in tokenizer.all_special_ids)):
        if token not in ends:
            return token
    what = "the tokenizer has no token that could be padding and does not end a text"
    raise DataProblem(what, remedy="give it a padding token of its own: tune: {tokens: ['<|pad|>']}")


def open_classifier(where: str | Path, device: torch.device, dtype: torch.dtype) -> Classifier:
    """A folder of a sequence classifier with one output. Raises DataProblem for anything else."""
    attention.register()
    folder = resolve(where)
    told = read_json(folder / CONFIG)
    found = [tensors["score.weight"] for path in shards(folder) if "score.weight" in (tensors := load_file(path))]
    if len(found) != 1 or found[0].shape[0] != 1:
        what = "is no reward model: it has no score of one number"
        raise DataProblem(what, where=str(folder), remedy="name what a reward stage left, such as reward/model")
    model = Model(load(folder, dtype, auto="base"))
    model.add_heads({"reward": Head(1)})
    with torch.no_grad():
        model.heads["reward"].get_parameter("weight").copy_(found[0].float())
    facts = (told.get("didact") or {}).get("reward") or {}
    renderer = Renderer(tokenizers.load(folder))
    return Classifier(model.to(device).eval().requires_grad_(False), renderer, facts, folder)
