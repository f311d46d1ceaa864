"""The nouns of a benchmark: a case, its sides, and what one run of a side measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROUNDED = "keeps no fp32 weights: updates smaller than bf16's steps are lost, which ours and autocast do not accept"


@dataclass(frozen=True)
class Side:
    """One program with its settings: ``run`` is ``module:function`` in this package, called with a ``Job``.

    ``about`` says the settings in words. ``lesser`` says in what way a side does less than ours, if it does: such a
    side is measured and shown but never stands for its peer.
    """

    name: str
    run: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    lesser: str = ""


@dataclass(frozen=True)
class Peer:
    """A peer and every way it might be at its best; the trial round picks the fastest that does the same work.

    ``packages`` are the distributions whose versions matter. ``agrees`` is off where the peer computes in another
    precision or draws at random, so that its numbers cannot be held against ours. ``apart`` is a folder of the
    environment whose packages its module puts before the environment's own.
    """

    name: str
    packages: tuple[str, ...]
    sides: tuple[Side, ...]
    agrees: bool = True
    apart: str = ""


@dataclass(frozen=True)
class Plan:
    """How much of a case is run. The first ``warmup`` steps of every run are not timed.

    ``trial`` is how many steps each side is timed for once, before the rounds, to see which are a peer's best; 0 takes
    each peer's first side for its best. ``unit`` is what ``measured`` counts: a server is driven for seconds, by as
    many clients as there are ``documents``.
    """

    rounds: int
    warmup: int
    measured: int
    documents: int
    trial: int
    unit: str = "steps"

    @property
    def steps(self) -> int:
        return self.warmup + self.measured


@dataclass(frozen=True)
class Inputs:
    """What every side of a case reads: a checkpoint folder, the steps, and whatever else ``extra`` names.

    ``steps`` for training: a list of steps, each a list of documents ``[tokens, number of prompt tokens]``. For
    generation: a list of requests, each a list of prompts. For serving: one list of texts to ask.
    """

    model: str
    steps: list[list[Any]]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run of one side, as handed to its process."""

    run: str
    options: Mapping[str, Any]
    inputs: Inputs

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Job:
        return cls(raw["run"], raw["options"], Inputs(**raw["inputs"]))


@dataclass(frozen=True)
class Served:
    """What the clients of a server saw: answers, those that did not end properly, seconds to each first token.

    ``refusals`` are the seconds after which a full queue refused, where that was asked.
    """

    answers: int
    broken: int
    waits: list[float]
    refusals: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """Seconds, tokens and loss of each step, or the tokens each prompt got; ``peak`` is the process's in bytes.

    ``tokens`` count what was read and not padding in training, and what was generated in generation. ``spent`` are the
    seconds of each step by what they went into, where a side says so.
    """

    seconds: list[float]
    tokens: list[int]
    losses: list[float] = field(default_factory=list)
    generated: list[list[int]] = field(default_factory=list)
    peak: int = 0
    served: Served | None = None
    spent: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Measured:
        return cls(**{**raw, "served": raw["served"] and Served(**raw["served"])})

    def rate(self, part: slice) -> float:
        """Tokens a second over the steps of ``part``."""
        return sum(self.tokens[part]) / sum(self.seconds[part])

    def best(self, part: slice) -> float:
        """Tokens a second of the fastest step of ``part``: a busy machine only ever slows a step down."""
        return max(tokens / seconds for tokens, seconds in zip(self.tokens[part], self.seconds[part], strict=True))


@dataclass(frozen=True)
class Case:
    """Ours beside its peers on one kind of work.

    ``prepare(folder, plan)`` writes the inputs; ``parts(plan)`` names the stretches of steps that are timed each for
    itself; ``tolerance`` bounds the difference between loss curves (training) or says how many of the first tokens
    must agree on average (generation).
    """

    name: str
    about: str
    ours: Side
    peers: tuple[Peer, ...]
    prepare: Callable[[Path, Plan], Inputs]
    parts: Callable[[Plan], dict[str, slice]]
    full: Plan
    quick: Plan
    tolerance: float
    why: str


def beside(apart: str) -> str:
    """The folder of packages of a peer that has versions of its own; see the Makefile."""
    return str(Path(sys.prefix) / apart)


def timed(plan: Plan) -> dict[str, slice]:
    """All steps after the warm-up."""
    return {"": slice(plan.warmup, None)}
