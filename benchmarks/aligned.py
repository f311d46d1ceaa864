"""What the sides of alignment share: pairs, labelled answers and prompts of ragged length, and a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Inputs, Plan
from benchmarks.inputs import encoder, endless, finetuning, ragged, text

GROUP, NEW_TOKENS, EPOCHS = 8, 64, 4


def preferring(folder: Path, plan: Plan) -> Inputs:
    """Steps of ``[prompt, chosen, rejected]`` token ids: a ragged conversation, and a second answer to its prompt."""
    inputs = finetuning(folder, plan)
    stream = endless(encoder(Path(inputs.model))(text()[4000:]))
    sizes = iter(ragged(plan.steps * plan.documents, mean=110, seed=4))
    return Inputs(inputs.model, [[_pair(one, stream, next(sizes)) for one in step] for step in inputs.steps])


def _pair(conversation: list[Any], stream: Any, size: int) -> list[list[int]]:
    tokens, prompt = conversation
    return [tokens[:prompt], tokens[prompt:], [*(next(stream) for _ in range(size)), *tokens[-2:]]]


def labelling(folder: Path, plan: Plan) -> Inputs:
    """Steps of ``[prompt, answer, was it good]``, every second one good."""
    inputs = finetuning(folder, plan)
    steps = [
        [[tokens[:prompt], tokens[prompt:], place % 2 == 0] for place, (tokens, prompt) in enumerate(step)]
        for step in inputs.steps
    ]
    return Inputs(inputs.model, steps)


def rolling(folder: Path, plan: Plan) -> Inputs:
    """Prompts of about 64 tokens, ``documents`` a step, as ids and as the text that they are of."""
    from didact.text import tokenizer as tokenizers

    model = Path(finetuning(folder, plan).model)
    tokenizer = tokenizers.load(model)
    stream = endless(encoder(model)(text()))
    lengths = iter(np.random.default_rng(2).integers(48, 81, plan.steps * plan.documents).tolist())
    texts = [
        [tokenizer.decode([next(stream) for _ in range(next(lengths))]) for _ in range(plan.documents)]
        for _ in range(plan.steps)
    ]
    steps = [[encoder(model)(one) for one in step] for step in texts]
    return Inputs(str(model), steps, {"texts": texts, "new_tokens": NEW_TOKENS})


def of_pairs(step: list[Any]) -> int:
    """Tokens of both answers, each behind its prompt: the work of a step, however often a prompt is read."""
    return sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in step)


def of_labels(step: list[Any]) -> int:
    """Tokens of each answer and of another one's behind its prompt."""
    return sum(2 * (len(prompt) + len(answer)) for prompt, answer, _ in step)


def reward(text: str) -> float:
    """Something that answers differ in, and that costs nothing: the share of spaces."""
    return text.count(" ") / max(len(text), 1)
