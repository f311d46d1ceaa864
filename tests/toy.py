"""Tiny models and data for tests: made in memory, in milliseconds."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from didact.audit.toy import toy_teacher
from didact.data.answers import Judged
from didact.data.corpus import Corpus
from didact.data.pieces import Pieces, cut
from didact.data.stream import TokenStream
from didact.model import attention
from didact.model.model import Model
from didact.vocabulary import Vocabulary

VOCABULARY = 61  # ids 0 and 1 are special: documents and the draws of objectives are of the others


def toy_vocabulary() -> Vocabulary:
    """Id 1 masks; every third id goes on with the word before it."""
    index = torch.arange(VOCABULARY)
    return Vocabulary(VOCABULARY, 1, index < 2, index % 3 != 0)


def toy_model(seed: int = 0, dtype: torch.dtype = torch.float32, **fields) -> Model:
    attention.register()
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
            **fields,
        }
    )
    return Model(AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="reach"))


def toy_corpus(
    documents: int = 40, seed: int = 0, longest: int = 30, prompt: int = 3, weight: float = 1.0, top: int = 0
) -> Corpus:
    """Random documents; the first ``prompt`` tokens of each are read, the rest trained; ``top`` is a teacher's."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(prompt + 2, longest + 1, documents)
    bound = np.concatenate([[0], np.cumsum(lengths)])
    trained = np.ones(bound[-1], np.bool_)
    for start in bound[:-1]:
        trained[start : start + prompt] = False
    token = rng.integers(2, VOCABULARY, bound[-1]).astype(np.int32)
    corpus = Corpus(token, trained, bound, lengths * 3, weight)
    return toy_teacher(corpus, top, VOCABULARY) if top else corpus


def toy_parts(context: int = 32, **corpus) -> list[Pieces]:
    return cut([toy_corpus(**corpus)], context, "window")[0]


def toy_stream(
    context: int = 32, batch_size: int = 4, seed: int = 0, pack: bool = True, rank: int = 0, world: int = 1, **corpus
) -> TokenStream:
    return TokenStream(toy_parts(context, **corpus), context, batch_size, seed, pack=pack, rank=rank, world=world)


def toy_pairs(
    batch_size: int = 4,
    examples: int = 24,
    seed: int = 0,
    negatives: int = 0,
    scored: int = 0,
    longest: int = 12,
    rank: int = 0,
    world: int = 1,
) -> TokenStream:
    """Random examples of two texts and up to ``negatives`` more; a text's first token is read and not pooled.

    ``scored`` is how many values there are; none where it is 0.
    """
    rng = np.random.default_rng(seed)
    texts = [2 + (int(rng.integers(negatives + 1)) if negatives else 0) for _ in range(examples)]
    lengths = [rng.integers(2, longest + 1, count) for count in texts]
    sizes = np.concatenate(lengths)
    bound = np.concatenate([[0], np.cumsum([each.sum() for each in lengths])])
    trained = np.ones(bound[-1], np.bool_)
    trained[np.cumsum(sizes) - sizes] = False
    token = rng.integers(2, VOCABULARY, bound[-1]).astype(np.int32)
    text = np.repeat(np.concatenate([np.arange(count) for count in texts]), sizes).astype(np.int16)
    value = (rng.integers(scored, size=examples) if scored else np.full(examples, np.nan)).astype(np.float32)
    corpus = Corpus(token, trained, bound, np.diff(bound) * 3, 1.0, text, value)
    return TokenStream(cut([corpus], 32, "window")[0], 32, batch_size, seed, rank=rank, world=world)


def toy_answers(
    batch_size: int = 4,
    examples: int = 24,
    seed: int = 0,
    answers: tuple[int, int] = (2, 4),
    longest: int = 8,
    levels: int = 3,
    people: int = 3,
    context: int = 64,
    lent: bool = False,
    top: int | None = None,
    **how: bool | int,
) -> TokenStream:
    """Random prompts of 2 to 6 tokens with ``answers`` (fewest, most) of 1 to ``longest``, of ``levels`` scores.

    ``lent``: nobody judged the last of each. ``top``: as of ``toy_teacher``.
    """
    corpus = toy_judged(examples, seed, answers, longest, levels, people)
    if lent and corpus.judged:
        corpus.judged.score[corpus.judged.bound[1:] - 1] = np.nan
    corpus = corpus if top is None else toy_teacher(corpus, top, VOCABULARY)
    return TokenStream(cut([corpus], context, "drop")[0], context, batch_size, seed, **how)


def toy_judged(
    examples: int = 24,
    seed: int = 0,
    answers: tuple[int, int] = (2, 4),
    longest: int = 8,
    levels: int = 3,
    people: int = 3,
) -> Corpus:
    rng = np.random.default_rng(seed)
    token, trained, branch, bound, score, who = [], [], [], [0], [], []
    counts = rng.integers(answers[0], answers[1] + 1, examples)
    for count in counts:
        prompt = rng.integers(2, VOCABULARY, int(rng.integers(2, 7))).tolist()
        token, trained, branch = (
            token + prompt[:-1],
            trained + [False] * (len(prompt) - 1),
            branch + [0] * (len(prompt) - 1),
        )
        for number in range(1, count + 1):
            said = rng.integers(2, VOCABULARY, int(rng.integers(1, longest + 1))).tolist()
            token, trained = token + prompt[-1:] + said, trained + [False] + [True] * len(said)
            branch += [number] * (1 + len(said))
        bound.append(len(token))
        score += rng.integers(levels, size=count).tolist()
        who += [int(rng.integers(1, people + 1))] * count
    judged = Judged(
        np.asarray(branch, np.int16),
        np.asarray(score, np.float32),
        np.asarray(who, np.int64),
        np.concatenate([[0], np.cumsum(counts)]),
    )
    arrays = np.asarray(token, np.int32), np.asarray(trained), np.asarray(bound)
    return Corpus(*arrays, np.diff(bound) * 3, judged=judged)
