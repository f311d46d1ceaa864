"""Reward models: one number for an answer, learned from which answers people preferred or how they rated them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from didact.batch import Batch
from didact.errors import DataProblem, UsageProblem
from didact.objective.answers import by_answer, judged, of_same, pairs
from didact.objective.base import Head, LanguageModel, Objective
from didact.objective.tokens import causal_reach
from didact.rng import Rng

BIASES = ("person", "length", "place")
SPEED = 30.0  # what thresholds and biases are read with: they are logits, and move so much farther in a step of Adam


@dataclass(frozen=True)
class Reward(Objective):
    """What an answer is worth: a linear head on its last token.

    ``form`` says how scores became judgements:

    - ``pairs``: P(i over j) = sigmoid(s_i - s_j), for all pairs of a prompt together (Bradley and Terry 1952; Ouyang et
      al. 2022, arXiv:2203.02155, equation 1). ``margin`` is subtracted for each point between their judged scores
      (Touvron et al. 2023, arXiv:2307.09288, equation 2), and ``center`` c adds c (r_i + r_j)^2, which keeps the mean
      at zero (Eisenstein et al. 2023, arXiv:2312.09244).
    - ``ranking``: the best of those left is chosen again and again (Plackett 1975; Luce 1959). Answers that are tied
      are each held against the worse ones alone.
    - ``ratings``: P(level <= l) = sigmoid(t_l - s), thresholds t that go up (McCullagh 1980).

    Each prompt counts once, however many answers it has. ``debias`` gives s terms beside r that are not part of the
    reward: a ``person``'s own offset, and weights for the ``length`` of an answer (its log) and its ``place`` among the
    prompt's answers, each person's own with ``person``. ``prior`` c adds c times the square of what they add to s.
    ``people`` are the annotators' numbers, in a row of the table each, and ``levels`` the ratings there are.
    """

    generates: ClassVar[bool] = False
    judged: ClassVar[bool] = True
    gauges: ClassVar[frozenset[str]] = frozenset({"accuracy", "margin", "reward"})

    form: str = "pairs"
    margin: float = 0.0
    center: float = 0.01
    debias: tuple[str, ...] = ()
    prior: float = 0.01
    people: tuple[int, ...] = field(default=(), metadata={"bound": "by the stage, from its data"})
    levels: tuple[float, ...] = field(default=(0.0, 1.0), metadata={"bound": "by the stage, from its data"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "debias", tuple(self.debias))
        for what, value, known in (("form", self.form, FORMS), *(("bias", bias, BIASES) for bias in self.debias)):
            if value not in known:
                raise UsageProblem(f"reward has no {what} {value!r}", remedy=f"choose one of {', '.join(known)}")
        for name in ("margin", "center", "prior"):
            if getattr(self, name) < 0:
                raise UsageProblem(f"{name} is {getattr(self, name)}", remedy="give 0 or more")

    @property
    def heads(self) -> Mapping[str, int | Head]:  # type: ignore[override]
        """The reward; what judges add, a row for each of ``people`` and one for all others; thresholds."""
        found: dict[str, int | Head] = {"reward": Head(1, drawn=True)}
        if self.debias:
            found["judges"] = Head(len(self.debias), inputs=len(self.people) + 1)
        if self.form == "ratings":
            found["levels"] = Head(len(self.levels) - 1, inputs=1)
        return found

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds ``reach``, and the weights of the term (named as ``form``) and of the gauges.

        Those of ``pairs``, ``accuracy`` and ``margin`` are [B, A, A], those of the others [B, A].
        """
        if "of" not in batch:
            raise DataProblem("a reward model learns from judged answers", remedy="give rankings, pairs or ratings")
        better, there = pairs(batch).float(), judged(batch).float()
        pair = better / of_same(better.sum(2), batch).clamp(min=1)[:, :, None]  # a prompt's add up to 1
        ahead = (better.sum(2) > 0).float()  # those of an answer that has a worse one
        ranking = ahead / of_same(ahead, batch).clamp(min=1)
        term = {"pairs": pair, "ranking": ranking, "ratings": there}[self.form]
        weight = {self.form: term, "accuracy": pair, "margin": pair, "reward": there}
        return batch.with_(weight, reach=causal_reach(batch))

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """The term and the gauges, shaped as their weights."""
        reward = rewards(model, batch)  # [B, A]
        score = reward + self.added(model, batch)
        gap = reward[:, :, None] - reward[:, None, :]
        gauges = {"accuracy": (gap > 0).float() + 0.5 * (gap == 0), "margin": gap, "reward": reward}
        found = FORMS[self.form](self, model, batch, reward, score)
        return {self.form: found, **{name: value.detach() for name, value in gauges.items()}}

    def added(self, model: LanguageModel, batch: Batch) -> Tensor:
        """What judges add to an answer's reward for other things than its worth, [B, A]."""
        if not self.debias:
            return torch.zeros_like(batch.score)
        there = batch.of >= 0
        known = torch.tensor(self.people, dtype=batch.who.dtype, device=batch.who.device)
        mine = batch.who[:, :, None] == known  # [B, A, K]
        table = model.head("judges", SPEED * torch.cat([mine, ~mine.any(2, keepdim=True)], 2).float())  # [B, A, F]
        size = by_answer(batch.trained.float(), batch).clamp(min=1)
        same = (batch.of[:, :, None] == batch.of[:, None, :]) & there[:, :, None]
        kinds = {"person": there.float(), "length": size.log(), "place": same.tril(-1).sum(2).float()}
        return sum((table[..., i] * kinds[kind] for i, kind in enumerate(self.debias)), torch.zeros_like(size)) * there


def rewards(model: LanguageModel, batch: Batch) -> Tensor:
    """The reward of each answer, fp32 [B, A]: the head on the last of its tokens; 0 where there is no answer."""
    return model.head("reward", endings(model, batch))[..., 0] * (batch.of >= 0)


def endings(model: LanguageModel, batch: Batch) -> Tensor:
    """The hidden state of the last token of each answer, [B, A, D]."""
    answers = batch.of.shape[1]
    index = torch.arange(batch.token.shape[1], device=batch.token.device).expand_as(batch.token)
    last = index.new_zeros(batch.size, answers + 1).scatter_reduce(1, batch.answer + 1, index, "amax")[:, 1:]
    hidden = model.hidden(batch)
    return hidden.gather(1, last[:, :, None].expand(-1, -1, hidden.shape[2]))


def _pairs(one: Reward, model: LanguageModel, batch: Batch, reward: Tensor, score: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j - margin) where i is better than j, [B, A, A]."""
    apart = (batch.score[:, :, None] - batch.score[:, None, :]).nan_to_num()
    added = score - reward
    found = -F.logsigmoid(score[:, :, None] - score[:, None, :] - one.margin * apart)
    found = found + one.center * (reward[:, :, None] + reward[:, None, :]).square()
    return found + one.prior * (added[:, :, None] - added[:, None, :]).square()


def _ranking(one: Reward, model: LanguageModel, batch: Batch, reward: Tensor, score: Tensor) -> Tensor:
    """log of (e^s_i + sum of e^s_j over the worse j) - s_i, [B, A]."""
    left = pairs(batch) | torch.eye(score.shape[1], dtype=torch.bool, device=score.device)  # i itself, and those worse
    found = torch.logsumexp(torch.where(left, score[:, None, :], -torch.inf), 2) - score
    mean = (left * reward[:, None, :]).sum(2) / left.sum(2)
    return found + one.center * (2 * mean).square() + one.prior * (score - reward).square()


def _ratings(one: Reward, model: LanguageModel, batch: Batch, reward: Tensor, score: Tensor) -> Tensor:
    """-log(sigmoid(t_l - s) - sigmoid(t_(l-1) - s)) for the level l that the answer was given, [B, A]."""
    raw = model.head("levels", score.new_full((1,), SPEED))  # [L - 1]
    threshold = torch.cat([raw[:1], raw[:1] + F.softplus(raw[1:]).cumsum(0)])
    known = torch.tensor(one.levels, device=score.device)
    level = (known < batch.score.nan_to_num()[:, :, None] - 1e-6).sum(2).clamp(max=len(one.levels) - 1)  # [B, A]
    wide = torch.cat([threshold.new_full((1,), -torch.inf), threshold, threshold.new_full((1,), torch.inf)])
    low, high = wide[level] - score, wide[level + 1] - score
    # sigmoid(h) - sigmoid(l) = sigmoid(h) sigmoid(-l) (1 - e^(l - h)), whose parts do not vanish against each other
    found = -F.logsigmoid(high) - F.logsigmoid(-low) - torch.log(-torch.expm1(low - high))
    return found + one.prior * (score - reward).square()


FORMS: dict[str, Callable[[Reward, LanguageModel, Batch, Tensor, Tensor], Tensor]] = {
    "pairs": _pairs,
    "ranking": _ranking,
    "ratings": _ratings,
}
