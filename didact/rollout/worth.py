"""What the answers of a phase were worth, from the columns of its rows: the same on every process."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from didact.batch import Batch
from didact.data.stack import stacked
from didact.objective.advantage import explained_variance, informative
from didact.objective.policy import Policy
from didact.rollout.decoder import Completion
from didact.rollout.environment import Episode
from didact.rollout.phase import Phase
from didact.rollout.rows import actions, chosen, placed

Columns = Mapping[str, np.ndarray]


def worth(objective: Policy, score: np.ndarray, outs: Sequence[Completion | Episode]) -> np.ndarray:
    """The scores of a prompt's answers with what they lose for having no end, [A]."""
    length = torch.tensor([[sum(chosen(out)) for out in outs]])
    finished = torch.tensor([[out.reason == "stop" for out in outs]])
    return objective.scored(torch.from_numpy(score)[None], length, finished)[0].numpy()


def tells(row: Columns) -> bool:
    """Whether a prompt's answers are of different worth."""
    return bool(informative(torch.from_numpy(row["score"])[None]))


def judged(objective: Policy, rows: Sequence[Columns], beta: float, after: int) -> Phase:
    """The phase, which ends before the prompt ``after``: advantages and returns over all of it."""
    batch = stacked(rows)
    where = actions(batch)  # [N, L] places of the answers' tokens in their rows, -1 where there is none
    mask = where >= 0
    taken = {name: _at(batch[name], where) for name in ("behaviour", "reference", "value_old") if name in batch}
    value = taken.get("value_old", torch.zeros_like(taken["behaviour"]))
    advantage, gain = objective.credit(batch.score, taken["behaviour"], taken["reference"], value, mask, beta)
    batch = batch.with_(beta=torch.full((batch.size,), beta), advantage=placed(advantage, where, batch))
    if objective.critic:
        batch["return"] = placed(gain, where, batch)
        known = explained_variance(value, gain, mask)
        batch["explained_variance"] = torch.full(batch.of.shape, known)
    kl = float(((taken["behaviour"] - taken["reference"]) * mask).sum() / len(mask))
    return Phase(batch, {"beta": beta, "kl": kl, "answers": len(mask), "next": after})


def of_all(drawn: Sequence[Columns], like: Batch) -> dict[str, torch.Tensor]:
    """What is measured of all that was drawn, though not all is learned from; the same for each answer, [B, A]."""
    found = {name: np.mean([row[name] for row in drawn]) for name in like if name.startswith("reward/")}
    found["reward"] = np.mean([row["score"] for row in drawn])
    found["no_signal"] = np.mean([not tells(row) for row in drawn])
    return {name: torch.full(like.of.shape, float(value)) for name, value in found.items()}


def _at(column: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """A column [B, T] at the places of actions [N, L], 0 where there is none."""
    group = len(where) // len(column)
    return column.repeat_interleave(group, 0).gather(1, where.clamp(min=0)) * (where >= 0)
