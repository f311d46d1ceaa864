"""Answers as rows of a batch: the prompt once, then each answer behind the prompt's last token; see ``Batch``."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from didact.batch import Batch
from didact.data.stack import OF_TOKENS
from didact.rollout.decoder import Completion
from didact.rollout.environment import Episode


def row(prompt: Sequence[int], outs: Sequence[Completion | Episode]) -> dict[str, np.ndarray]:
    """The columns of a prompt and its answers: [T] by token, [A] by answer."""
    shared, last = len(prompt) - 1, prompt[-1]
    tokens = [np.asarray(prompt[:-1], np.int64)] + [np.asarray([last, *out.tokens], np.int64) for out in outs]
    branch = np.repeat(np.arange(len(outs) + 1), [len(each) for each in tokens])  # 0 in what they share
    inside = np.concatenate([np.arange(shared), *(shared + np.arange(len(each)) for each in tokens[1:])])
    behaviour = [np.zeros(shared)] + [np.asarray([0.0, *out.logprobs]) for out in outs]
    return {
        "token": np.concatenate(tokens),
        "doc": np.zeros(len(branch), np.int32),
        "position": inside.astype(np.int64),
        "trained": np.concatenate([np.zeros(shared, bool), *(np.asarray([False, *chosen(out)]) for out in outs)]),
        "answer": branch - 1,
        "order": np.where(branch == 0, 0, 2 * branch - 1),
        "behaviour": np.concatenate(behaviour).astype(np.float32),
        "of": np.zeros(len(outs), np.int64),
        "who": np.zeros(len(outs), np.int64),
        "finished": np.asarray([out.reason == "stop" for out in outs], np.float32),
    }


def chosen(out: Completion | Episode) -> list[bool]:
    """Which of what followed a prompt the model chose itself."""
    return out.chosen if isinstance(out, Episode) else [True] * len(out.tokens)


def distinct(outs: Sequence[Completion | Episode], n: int = 2) -> float:
    """Share of the answers' stretches of ``n`` tokens that are not copies of others of them; 1 where there are none."""
    found = [tuple(out.tokens[i : i + n]) for out in outs for i in range(len(out.tokens) - n + 1)]
    return len(set(found)) / len(found) if found else 1.0


def trimmed(batch: Batch) -> Batch:
    """The batch without the columns that are padding in all of its rows."""
    used = int((batch.doc >= 0).any(0).sum())
    return Batch({name: column[:, :used] if name in OF_TOKENS else column for name, column in batch.items()})


def actions(batch: Batch) -> Tensor:
    """Where in its row each answer's chosen tokens stand: [B A, L], -1 beyond its end; of A answers a row."""
    count = batch.of.shape[1]
    found = [(batch.answer[b] == k) & batch.trained[b] for b in range(batch.size) for k in range(count)]
    longest = max(int(one.sum()) for one in found)
    where = torch.full((len(found), longest), -1)
    for number, one in enumerate(found):
        index = one.nonzero()[:, 0]
        where[number, : len(index)] = index
    return where


def placed(x: Tensor, where: Tensor, batch: Batch) -> Tensor:
    """What belongs to actions [N, L], at their places in the rows [B, T]."""
    made = torch.zeros(batch.token.shape)
    rows = torch.arange(batch.size).repeat_interleave(len(where) // batch.size)[:, None].expand_as(where)
    there = where >= 0
    made[rows[there], where[there]] = x[there].to(made)
    return made
