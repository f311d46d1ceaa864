"""Learning from what one's own answers were worth: one objective, of which the methods are options.

The batch holds prompts with sampled answers (see ``Batch``). Of each token, in its place, it has ``behaviour``, the
log-probability with which it was sampled, ``reference``, that of the model the stage started from, and ``advantage``; a
critic's also ``value_old`` and ``return``. Where a token was not chosen by the model these are 0. Of each answer it has
its ``score``, the same of each source (``reward/NAME``), whether it ``finished``, and, to be looked at, how
``distinct`` its prompt's answers are, how far the sampler was off (``mismatch``) and how well a critic knew what was to
come (``explained_variance``); of each row ``beta``, the weight
of KL. Where groups without signal were replaced, ``reward``, ``reward/NAME`` and ``no_signal`` are means of all that
was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.advantage import BASELINES, ESTIMATORS, gae, k1, k2, k3, overlong, returns, whiten
from didact.objective.answers import by_answer, judged, of_same
from didact.objective.base import LanguageModel, Objective
from didact.objective.tokens import causal_reach, next_token
from didact.rng import Rng

PLACED = ("behaviour", "reference", "advantage", "value_old", "return")  # columns that stand where a token stands
BY_TOKEN = ("kl", "approx_kl", "entropy", "ratio", "clip_fraction")  # what is measured a token,
BY_ANSWER = ("kl_answer", "length", "finished", "no_signal", "reward", "distinct", "mismatch")  # and an answer
FARTHEST = 20.0  # nats: any clip is far within
BOUND = {"bound": "by the stage, not by a recipe"}


def spread(x: Tensor, batch: Batch) -> Tensor:
    """What belongs to an answer [B, A], at each of its tokens [B, T]; anything elsewhere."""
    return x.gather(1, batch.answer.clamp(min=0))


Level = Callable[[Tensor, Batch], Tensor]  # log-ratios of tokens [B, T] to those that are clipped [B, T]
RATIOS: dict[str, Level] = {
    "token": lambda gap, batch: gap,
    "mean": lambda gap, batch: spread(by_answer(gap, batch) / batch.length.clamp(min=1), batch),
    "whole": lambda gap, batch: spread(by_answer(gap, batch), batch),
}
MEANS = ("answer", "tokens", "longest", "sum")


@dataclass(frozen=True)
class Policy(Objective):
    """-min(r A, clip(r, 1 - clip, 1 + clip_high) A) + beta KL, r = p(token) / p when it was sampled.

    A is the answer's reward against its ``baseline``: the ``group``'s mean and deviation, its ``mean``, that of the
    ``others``, or ``none``; with ``best`` it is 1 for the group's best answers and 0 for the others. ``to_go`` counts
    of the costs of KL only those still to come; ``whiten`` then brings the advantages of a whole phase to mean 0 and
    variance 1. ``ratio`` is a token's, the geometric ``mean`` of its answer's or that of the ``whole`` answer.
    ``mean``: of each answer over its tokens, then of the answers (``answer``); of all ``tokens``; each answer's sum
    over the ``longest`` possible; each answer's ``sum``.

    KL from the reference is minimised (``kl: loss``) or a cost in the reward (``kl: reward``); ``estimator`` is k1, k2,
    k3 or k3_k2. With ``target_kl`` nats an answer, ``beta`` is adapted from phase to phase over ``horizon`` answers
    (Ziegler et al. 2019, arXiv:1909.08593, 2.2). ``drop_equal`` leaves out groups whose answers are worth the same,
    ``drop_unfinished`` answers that ran into the limit; ``overlong`` punishes the last so many tokens before the limit,
    and ``unfinished``, where given, is the score of answers that ran into it (the EOS trick). In the place of groups
    whose answers are worth the same, further prompts are drawn, in ``max_num_gen_batches`` batches in all, at most.
    """

    judged: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    critic: ClassVar[bool] = False

    baseline: str = "group"
    to_go: bool = False
    whiten: bool = False
    ratio: str = "token"
    mean: str = "answer"
    clip: float = 0.2
    clip_high: float | None = None
    beta: float = 0.0
    kl: str = "loss"
    estimator: str = "k3"
    target_kl: float | None = None
    horizon: int = 10_000
    drop_equal: bool = False
    drop_unfinished: bool = False
    overlong: int = 0
    unfinished: float | None = None
    max_num_gen_batches: int = 1

    longest: int = field(default=1, kw_only=True, metadata=BOUND)
    temperature: float = field(default=1.0, kw_only=True, metadata=BOUND)
    sources: tuple[str, ...] = field(default=(), kw_only=True, metadata=BOUND)

    def __post_init__(self) -> None:
        """Raises UsageProblem for a word that is not known, and for numbers that make no sense."""
        for name, known in (
            ("baseline", BASELINES),
            ("ratio", RATIOS),
            ("mean", MEANS),
            ("kl", ("loss", "reward")),
            ("estimator", ESTIMATORS),
        ):
            if getattr(self, name) not in known:
                raise UsageProblem(f"{name} is {getattr(self, name)!r}", remedy=f"known are {', '.join(known)}")
        if min(self.clip, self.high, self.beta, self.overlong, self.horizon - 1) < 0:
            raise UsageProblem("clip, clip_high, beta, overlong or horizon is below zero", remedy="give 0 or more")
        if self.max_num_gen_batches < 1:
            raise UsageProblem(f"max_num_gen_batches is {self.max_num_gen_batches}", remedy="give 1, or more to refill")
        if self.target_kl is not None and not (self.target_kl > 0 and self.beta > 0):
            raise UsageProblem("target_kl adapts beta, from a beta above 0", remedy="give both, as 6 and 0.05")

    @property
    def high(self) -> float:
        """How far a ratio may rise."""
        return self.clip if self.clip_high is None else self.clip_high

    @property
    def gauges(self) -> frozenset[str]:  # pyrefly: ignore[bad-override]
        """What is measured beside: of the policy, and each reward by its name."""
        return frozenset((*BY_TOKEN, *BY_ANSWER, *self._named()))

    def told(self, served: Mapping[str, Any]) -> Self:
        """Raises UsageProblem for a model that is not read from left to right."""
        for how in ("bidirectional_prompt", "text_diffusion"):
            if served.get(how):
                what = f"this model was trained with {how}, and its own answers are learned from left to right"
                raise UsageProblem(what, remedy="start from a causal model")
        return self

    def acting(self, longest: int, temperature: float, sources: tuple[str, ...]) -> Self:
        """The same objective, told of the answers it will see: their most tokens, how they are drawn and rewarded."""
        return replace(self, longest=longest, temperature=temperature, sources=sources)

    # --- what answers were worth ---------------------------------------------------------------------------------

    def scored(self, score: Tensor, length: Tensor, finished: Tensor) -> Tensor:
        """The scores [P, G] with what answers of ``length`` tokens lose for having no end."""
        score = score + overlong(length.to(score), self.longest, self.overlong)
        return score if self.unfinished is None else torch.where(finished, score, self.unfinished)

    def credit(
        self, score: Tensor, behaviour: Tensor, reference: Tensor, value: Tensor, mask: Tensor, beta: float
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [N, L] of the actions of a phase; ``score`` [P, G], N = P G, the others [N, L]."""
        cost = beta * k1(behaviour, reference) * mask if self.kl == "reward" else torch.zeros_like(behaviour)
        base = BASELINES[self.baseline]
        if self.critic or self.to_go:
            last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
            reward = last * base(score).flatten()[:, None] - cost
        else:
            worth = base(score - cost.sum(1).view_as(score)).flatten()
            reward = worth[:, None] * mask
        found = self.advantages(reward, value, mask)
        gain = found + value * mask
        return whiten(found, mask) if self.whiten else found, gain

    def advantages(self, reward: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Of rewards [N, L], what each action was worth."""
        return returns(reward, mask) if self.to_go else reward

    def adapted(self, beta: float, kl: float, answers: int) -> float:
        """The next phase's ``beta`` after one of so many answers with so much ``kl`` an answer."""
        if self.target_kl is None:
            return beta
        return beta * (1 + min(max(kl / self.target_kl - 1, -0.2), 0.2) * answers / self.horizon)

    # --- the equation --------------------------------------------------------------------------------------------

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Puts what stands at a token where it is predicted; weighs the answers."""
        target, asked = next_token(batch)
        moved = {name: torch.roll(batch[name], -1, dims=1) * asked for name in PLACED if name in batch}
        length = by_answer(asked, batch)
        there = judged(batch)
        score = torch.where(there, batch.score, 0.0)
        ready = Batch({**batch, **moved}).with_(target=target, asked=asked, length=length, score=score)
        alike = there & ~_telling(ready, there)
        if self.baseline == "none" and not self.drop_equal:
            alike = torch.zeros_like(there)  # an answer is not held against the others of its group
        kept = there & ~(alike & self.drop_equal) & ((batch.finished > 0) | (not self.drop_unfinished))
        of_tokens = spread(kept.float(), batch) * asked
        terms = {"policy": kept * (length if self.mean == "tokens" else torch.ones_like(length))}
        if self.critic:
            terms["value"] = of_tokens
        by_token = dict.fromkeys(BY_TOKEN, of_tokens)
        by_answer_too = dict.fromkeys((*BY_ANSWER, *self._named()), there.float())
        silent = batch.get("no_signal", alike.float())
        return ready.with_({**terms, **by_token, **by_answer_too}, no_signal=silent, reach=causal_reach(batch))

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{policy: [B, A]}, and what is measured."""
        return self.terms(model, model.hidden(batch), batch)

    def terms(self, model: LanguageModel, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What ``loss`` returns, of hidden states [B, T, D]."""
        logprob = model.logprob(hidden, batch.target, batch.asked, temperature=self.temperature)
        gap = (logprob - batch.behaviour) * batch.asked
        ratio = RATIOS[self.ratio](gap, batch).clamp(-FARTHEST, FARTHEST).exp()  # of infinity, nothing is left
        clipped = ratio.clamp(1 - self.clip, 1 + self.high)
        surrogate = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
        if self.kl == "loss" and self.beta > 0:
            apart = ESTIMATORS[self.estimator](logprob, batch.reference)
            surrogate = surrogate + batch.beta[:, None] * apart
        over = {"longest": float(self.longest), "sum": 1.0}.get(self.mean, batch.length.clamp(min=1))
        found = {"policy": by_answer(surrogate * batch.asked, batch) / over}
        return found | self.measured(batch, gap.detach(), ratio.detach())

    def measured(self, batch: Batch, gap: Tensor, ratio: Tensor) -> dict[str, Tensor]:
        """The gauges, of log-ratios and ratios [B, T]."""
        outside = torch.where(batch.advantage > 0, ratio > 1 + self.high, ratio < 1 - self.clip)
        kl = k3(batch.behaviour, batch.reference) * batch.asked
        found = {
            "kl": kl,
            "kl_answer": by_answer(kl, batch),
            "approx_kl": k2(gap, torch.zeros_like(gap)),
            "entropy": -batch.behaviour,
            "ratio": ratio,
            "clip_fraction": (outside & (batch.advantage != 0)).float(),
            "reward": batch.get("reward", batch.score),
        }
        return found | {
            name: batch[name] for name in ("length", "finished", "no_signal", "distinct", "mismatch", *self._named())
        }

    def _named(self) -> list[str]:
        return [f"reward/{name}" for name in self.sources]


def _telling(batch: Batch, there: Tensor) -> Tensor:
    """Which answers are of a group whose answers are not all worth the same, bool [B, A]."""
    count = of_same(there.float(), batch).clamp(min=1)
    away = (batch.score - of_same(batch.score, batch) / count).abs() * there
    return of_same(away, batch) > 1e-6


@dataclass(frozen=True)
class Grpo(Policy):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300, eq. 3)."""

    beta: float = 0.04


@dataclass(frozen=True)
class DrGrpo(Policy):
    """GRPO without its biases for short and for easy (Liu et al. 2025, arXiv:2503.20783, section 3.2)."""

    baseline: str = "mean"
    mean: str = "longest"


@dataclass(frozen=True)
class Dapo(Policy):
    """Clip higher, all tokens alike, others for groups without signal (Yu et al. 2025, arXiv:2503.14476, section 3)."""

    mean: str = "tokens"
    clip_high: float | None = 0.28
    drop_equal: bool = True
    drop_unfinished: bool = True
    max_num_gen_batches: int = 10


@dataclass(frozen=True)
class Rloo(Policy):
    """REINFORCE against the mean of the others, KL in the reward (Ahmadian et al. 2024, arXiv:2402.14740)."""

    baseline: str = "others"
    ratio: str = "whole"
    beta: float = 0.05
    kl: str = "reward"


@dataclass(frozen=True)
class Gspo(Policy):
    """The ratio of whole answers, by the token (Zheng et al. 2025, arXiv:2507.18071, eq. 5 to 7)."""

    ratio: str = "mean"
    clip: float = 3e-4
    clip_high: float | None = 4e-4


@dataclass(frozen=True)
class Expert(Policy):
    """Expert iteration: fine-tuning on a prompt's best answers (ReST: Gulcehre et al. 2023, arXiv:2308.08998)."""

    baseline: str = "best"
    drop_equal: bool = True


@dataclass(frozen=True)
class ReinforcePp(Policy):
    """REINFORCE with PPO's clip, KL as a cost of each token, whitened (Hu 2025, arXiv:2501.03262)."""

    baseline: str = "none"
    to_go: bool = True
    whiten: bool = True
    mean: str = "tokens"
    beta: float = 0.01
    kl: str = "reward"


@dataclass(frozen=True)
class Ppo(Policy):
    """With a critic of its own (Schulman et al. 2017, arXiv:1707.06347; details as in arXiv:2403.17031).

    The critic, a head ``value`` or a network of its own, learns max((v - R)^2, (v clipped to value_clip of what it was
    - R)^2) / 2, times ``vf``; A is GAE's, of ``gamma`` and ``lam``.
    """

    critic: ClassVar[bool] = True
    heads: ClassVar[Mapping[str, int]] = {"value": 1}

    baseline: str = "none"
    whiten: bool = True
    mean: str = "tokens"
    beta: float = 0.05
    kl: str = "reward"
    vf: float = 0.1
    value_clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95

    def _named(self) -> list[str]:
        return [*super()._named(), "explained_variance"]

    def advantages(self, reward: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Generalised advantage estimation."""
        return gae(reward, value, mask, self.gamma, self.lam)

    def terms(self, model: LanguageModel, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """{policy: [B, A], value: [B, T]}, and what is measured."""
        value, old, gain = model.value(batch, hidden), batch.value_old, batch["return"]
        near = old + (value - old).clamp(-self.value_clip, self.value_clip)
        error = torch.maximum((value - gain).square(), (near - gain).square())
        return super().terms(model, hidden, batch) | {"value": self.vf * error / 2}
