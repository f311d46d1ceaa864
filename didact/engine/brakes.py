"""What may go wrong while a model learns from judgements, noticed from its gauges: alarms with a remedy, and rules.

A gauge is measured every step and never minimised. Those that the alarms know, by the name of the term:

``kl`` from the reference, nats a token; ``entropy``, nats a token; ``length``, tokens an answer; ``reward``, what is
trained on, and ``reward/heldout...``, what is not; ``clip_fraction``, ``no_signal`` and ``distinct``, shares of tokens,
groups and n-grams; ``mismatch``, the most nats between the sampler's log-probability of a token and the trainer's;
``chosen_token``, by how many nats a token of the chosen answers is likelier than under the reference.

Everything here is a pure function of the gauges seen so far, which are the same on every process and after every
resume; ``Brakes.state`` is JSON and restores them bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from didact.engine.rules import LONGEST, Rule
from didact.engine.trend import apart, partial, trend
from didact.errors import UsageProblem

FIRST = 16  # steps that say where a gauge began
LATELY = 16  # steps whose mean is where it stands
BEFORE = 32  # steps that a jump is measured against
LOOK = 64  # steps over which a trend or a correlation is looked for
AGAIN = 128  # steps before what still holds is said again
SURE = 4.0  # standard errors
FALLING = 3.0  # standard errors of a trend that a rule asks for

KL = 1.0  # nats a token: an answer of 100 tokens is then e^100 times likelier than it was
JUMP = 4.0  # times its recent median
CALM = 0.02  # nats a token that no jump is worth a word below
COLLAPSED = 0.1  # of the entropy it began with
CLIPPED = 0.3
SILENT = 0.8
MISMATCH = 0.1  # nats, the most of a few answers' tokens
LONGER = 1.3  # times the length it began with
TOGETHER = 0.5  # partial correlation of reward and length, less that of the held-out reward
REPEATED = 0.5  # of the distinct-n it began with
FALLEN = 0.25  # nats a token: each is then a fifth less likely


@dataclass
class Track:
    """One gauge so far: its first and its last values, and how many there were; what is not finite is not counted."""

    first: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    count: int = 0

    def add(self, value: float) -> None:
        """One more step."""
        if not math.isfinite(value):
            return
        if len(self.first) < FIRST:
            self.first.append(value)
        self.recent.append(value)
        del self.recent[:-LONGEST]
        self.count += 1

    @property
    def began(self) -> float:
        """Where it began."""
        return fmean(self.first)

    @property
    def now(self) -> float:
        """Where it stands."""
        return fmean(self.recent[-LATELY:])

    def known(self, steps: int) -> bool:
        """Whether there are so many values."""
        return self.count >= steps


Tracks = Mapping[str, Track]


def held_out(tracks: Tracks) -> list[tuple[str, Track]]:
    """The rewards that are measured and not trained on."""
    return [(name, one) for name, one in tracks.items() if name.startswith("reward/heldout") and one.known(LOOK)]


def above(one: Track, bound: float, line: str) -> str:
    """The line, told where the gauge stands, if that is lately above the bound."""
    return line.format(one.now) if one.known(LATELY) and one.now > bound else ""


def kl_high(tracks: Tracks) -> str:
    """Far from the reference: no reward model has seen such answers, and they are paid for with what the model knew."""
    line = "the KL from the reference is {:.3g} nats a token; raise beta, lower learning_rate, or stop earlier"
    return above(tracks["kl"], KL, line)


def kl_jumps(tracks: Tracks) -> str:
    """One update went much further than those before."""
    kl = tracks["kl"]
    if not kl.known(BEFORE + 1):
        return ""
    before, value = kl.recent[-BEFORE - 1 : -1], kl.recent[-1]
    usual = median(before)
    wide = median(abs(one - usual) for one in before)
    if value <= max(JUMP * usual, usual + 10 * wide, CALM):
        return ""
    return f"the KL jumped to {value:.3g} from {usual:.3g} nats a token; lower learning_rate or grad_clip"


def entropy_collapses(tracks: Tracks) -> str:
    """The model says nearly the same whatever it draws: nothing more is found out."""
    entropy = tracks["entropy"]
    if not entropy.known(FIRST + LATELY) or entropy.now >= COLLAPSED * entropy.began:
        return ""
    return (
        f"the entropy fell from {entropy.began:.3g} to {entropy.now:.3g} nats a token: there is little left to choose "
        "among; raise beta or the sampling temperature, clip higher above than below, or stop here"
    )


def length_pays(tracks: Tracks) -> str:
    """Longer answers are paid for being longer: length has grown, and the reward goes with it, step for step.

    What time alone explains of both is taken out. Where a held-out reward goes with length as well, longer is better.
    """
    length, reward = tracks["length"], tracks["reward"]
    if not (length.known(FIRST + LOOK) and reward.known(FIRST + LOOK)) or length.now < LONGER * length.began:
        return ""

    def pays(one: Track) -> float:
        return partial(one.recent[-LOOK:], length.recent[-LOOK:], [range(LOOK)])

    together = pays(reward) - max([0.0, *(pays(one) for _, one in held_out(tracks))])
    if not together > TOGETHER:
        return ""
    return (
        f"answers grew from {length.began:.0f} to {length.now:.0f} tokens and the reward is paid for it (partial "
        f"correlation with length {together:.2f}); take length out of the reward, cap it, or hold out another reward"
    )


def clips(tracks: Tracks) -> str:
    """Most of the update is thrown away."""
    line = "{:.0%} of the tokens are clipped; lower learning_rate, or take fewer epochs of each rollout"
    return above(tracks["clip_fraction"], CLIPPED, line)


def no_signal(tracks: Tracks) -> str:
    """All answers of a group got the same reward, so it teaches nothing."""
    line = (
        "{:.0%} of the groups got one and the same reward for all answers and teach nothing; "
        "leave out prompts that are too easy or too hard, raise the group size or the temperature"
    )
    return above(tracks["no_signal"], SILENT, line)


def mismatch(tracks: Tracks) -> str:
    """The sampler is not the policy that is trained."""
    line = (
        "the sampler's log-probabilities are up to {:.3g} nats from the trainer's; "
        "take newer rollouts, or the same precision for both"
    )
    return above(tracks["mismatch"], MISMATCH, line)


def chosen_falls(tracks: Tracks) -> str:
    """DPO's known failure: the margin grows while the chosen answers become less likely too."""
    chosen = tracks["chosen_token"]
    if not chosen.known(FIRST + LATELY):
        return ""
    late = chosen.recent[-LATELY:]
    if apart(chosen.first, late) > -SURE or chosen.began - fmean(late) < FALLEN:
        return ""
    return (
        f"the chosen answers lost {chosen.began - fmean(late):.2g} nats a token since the first steps; "
        "lower learning_rate, raise beta, or add the likelihood of the chosen answers to the loss"
    )


def over_optimised(tracks: Tracks) -> str:
    """Goodhart: what is trained on still rises, what is only measured falls (Gao et al. 2022, arXiv:2210.10760)."""
    reward = tracks["reward"]
    if not reward.known(LOOK) or trend(reward.recent[-LOOK:]) < SURE:
        return ""
    for name, heldout in held_out(tracks):
        if trend(heldout.recent[-LOOK:]) < -SURE:
            return (
                f"the reward still rises ({reward.now:.3g}) while {name}, which is not trained on, falls "
                f"({heldout.now:.3g}): the reward is being gamed; stop here, raise beta, or train the reward model on "
                "answers of this policy"
            )
    return ""


def repeats(tracks: Tracks) -> str:
    """Answers become copies of each other."""
    distinct = tracks["distinct"]
    if not distinct.known(FIRST + LATELY) or distinct.now >= REPEATED * distinct.began:
        return ""
    return (
        f"the share of distinct n-grams fell from {distinct.began:.2f} to {distinct.now:.2f}: answers become copies "
        "of each other; raise beta or the temperature, or stop here"
    )


Alarm = Callable[[Tracks], str]
ALARMS: dict[Alarm, tuple[str, ...]] = {
    kl_high: ("kl",),
    kl_jumps: ("kl",),
    entropy_collapses: ("entropy",),
    length_pays: ("length", "reward"),
    clips: ("clip_fraction",),
    no_signal: ("no_signal",),
    mismatch: ("mismatch",),
    chosen_falls: ("chosen_token",),
    over_optimised: ("reward",),
    repeats: ("distinct",),
}
"""Each alarm and the gauges it cannot do without."""


ALWAYS = (("", "loss"), ("", "grad_norm"))
"""What every stage measures."""


class Brakes:
    """Looks at every step's gauges, after the update. ``stopped`` is why the stage is to end, empty until then."""

    def __init__(self, rules: Sequence[Rule] = ()):
        self.rules = tuple(rules)
        self.tracks: dict[str, dict[str, Track]] = {}  # of each task, by term
        self.said: dict[str, int] = {}  # the step at which each alarm spoke last
        self.stopped = ""

    def check(self, step: int, loss: float, norm: float, gauges: Mapping[tuple[str, str], float]) -> list[str]:
        """The lines to say after a step with ``gauges`` by (task, term); the norm is the gradient's."""
        for (task, term), value in {**dict(zip(ALWAYS, (loss, norm), strict=True)), **gauges}.items():
            self.tracks.setdefault(task, {}).setdefault(term, Track()).add(value)
        lines = [
            line
            for task in dict.fromkeys(task for task, _ in gauges)
            for alarm, needed in ALARMS.items()
            if self.tracks[task].keys() >= set(needed) and (line := self._told(step, task, alarm))
        ]
        for one in self.rules:
            if not self.stopped and any(met(one, track) for track in self._meant(one)):
                self.stopped = f"{one.text} at step {step}"
                lines.append(f"step {step}: {one.text}: the stage ends here, as stop_when says")
        return lines

    def require(self, known: Sequence[tuple[str, str]], where: str) -> None:
        """Raises UsageProblem for a rule of a gauge that is not among those ``known`` by (task, term)."""
        given = [*ALWAYS, *known]
        for one in self.rules:
            if not any(one.of(*gauge) for gauge in given):
                names = sorted({term for _, term in given})
                what = f"stop_when: nothing here gives a gauge {one.gauge!r}"
                raise UsageProblem(what, where=where, remedy=f"there are {', '.join(names)}")

    def state(self) -> dict[str, Any]:
        """Everything remembered, as JSON."""
        tracks = {task: {term: asdict(track) for term, track in terms.items()} for task, terms in self.tracks.items()}
        return {"tracks": tracks, "said": dict(self.said), "stopped": self.stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remembers ``state`` instead."""
        self.tracks = {
            task: {term: Track(list(one["first"]), list(one["recent"]), one["count"]) for term, one in terms.items()}
            for task, terms in state["tracks"].items()
        }
        self.said, self.stopped = dict(state["said"]), state["stopped"]

    def _meant(self, one: Rule) -> list[Track]:
        return [track for task, terms in self.tracks.items() for term, track in terms.items() if one.of(task, term)]

    def _told(self, step: int, task: str, alarm: Alarm) -> str:
        """What an alarm says, unless it said so not long ago."""
        name = f"{task}/{alarm.__name__}"
        line = alarm(self.tracks[task])
        if not line or step - self.said.get(name, -AGAIN) < AGAIN:
            return ""
        self.said[name] = step
        return f"step {step}: {task}: {line}"


def met(rule: Rule, track: Track) -> bool:
    """Whether the last values are what the rule ends the stage for."""
    if not track.known(rule.steps):
        return False
    last = track.recent[-rule.steps :]
    if rule.sign in ("<", ">"):
        return max(last) < rule.bound if rule.sign == "<" else min(last) > rule.bound
    way = trend(last)
    return way < -FALLING if rule.sign == "falls" else way > FALLING
