"""Several answers to each of many prompts: a prompt is read once for all of its answers."""

from collections.abc import Callable, Sequence

import torch

from didact.engine.step import Interrupted
from didact.model.model import Model
from didact.rollout.decoder import Completion
from didact.rollout.document import DocumentCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling

PACKED = 4096  # tokens of prompts that are read at once


def answers(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    ways: Sequence[Sequence[Sampling]],
    leaving: Callable[[], bool] = lambda: False,
) -> list[list[Completion]]:
    """For each prompt a completion for each of its ``ways``. Raises Interrupted between two tokens when ``leaving``."""
    read = documents(sampler.model, [prompt[:-1] for prompt in prompts])
    before = [document for document, each in zip(read, ways, strict=True) for _ in each]
    starts = [prompt[-1:] for prompt, each in zip(prompts, ways, strict=True) for _ in each]
    done: dict[int, Completion] = {}
    for out in sampler.stream(starts, [way for each in ways for way in each], documents=before):
        if leaving():
            raise Interrupted
        if out.reason:
            done[out.prompt] = out
    every = (done[number] for number in range(len(starts)))
    return [[next(every) for _ in each] for each in ways]


def documents(model: Model, prompts: Sequence[Sequence[int]]) -> list[DocumentCache | None]:
    """The prompts as the model has read them; None for one of no tokens."""
    found: dict[int, DocumentCache] = {}
    batch: list[int] = []
    for number, prompt in enumerate(prompts):
        if batch and sum(len(prompts[i]) for i in batch) + len(prompt) > PACKED:
            found |= _read(model, prompts, batch)
            batch = []
        batch += [number] if len(prompt) else []
    found |= _read(model, prompts, batch)
    return [found.get(number) for number in range(len(prompts))]


def _read(model: Model, prompts: Sequence[Sequence[int]], batch: Sequence[int]) -> dict[int, DocumentCache]:
    if not batch:
        return {}
    with torch.inference_mode():
        return dict(zip(batch, DocumentCache.read(model, [prompts[i] for i in batch], False), strict=True))
