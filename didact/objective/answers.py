"""Answers of a packed row: what their tokens add up to, and which are better than which."""

import torch
from torch import Tensor

from didact.batch import Batch


def by_answer(x: Tensor, batch: Batch) -> Tensor:
    """The sum of ``x`` [B, T] over the tokens of each answer, [B, A]; what stands in prompts and padding is left out.

    A token's log-probability stands where it is predicted, which is in its own answer.
    """
    answers = batch.of.shape[1]
    empty = x.new_zeros(batch.size, answers + 1)  # the first column takes what belongs to no answer
    return empty.scatter_add(1, batch.answer + 1, x)[:, 1:]


def judged(batch: Batch) -> Tensor:
    """Which answers have a score and a trained token, bool [B, A]."""
    said = by_answer(batch.trained.float(), batch) > 0
    return said & (batch.of >= 0) & ~batch.score.isnan()


def pairs(batch: Batch) -> Tensor:
    """Whether answer i is better than answer j, both to the same prompt, bool [B, A, A]."""
    there = judged(batch)
    same = (batch.of[:, :, None] == batch.of[:, None, :]) & there[:, :, None] & there[:, None, :]
    return same & (batch.score[:, :, None] > batch.score[:, None, :])


def of_same(x: Tensor, batch: Batch) -> Tensor:
    """The sum of ``x`` [B, A] over the answers to each answer's prompt, itself among them, [B, A]."""
    same = (batch.of[:, :, None] == batch.of[:, None, :]) & (batch.of >= 0)[:, :, None]
    return torch.einsum("bij,bj->bi", same.to(x), x)
