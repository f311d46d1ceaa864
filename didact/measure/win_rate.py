"""How often a model's answers are better than another model's, to the same prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue, TypeAdapter

from didact.errors import UsageProblem
from didact.measure.base import Measure, Subject
from didact.measure.duel import Judge, by_rewards, judged, said
from didact.measure.pairwise import RUBRIC, Pairwise
from didact.recipe.rewarding import Rewards
from didact.rollout.prompts import prompt
from didact.rollout.settings import Sampling

READ: TypeAdapter[Any] = TypeAdapter(Rewards)
Records = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class WinRate(Measure):
    """The share of prompts whose answer is better than that of ``against``: the base, or a model by name.

    Better is what ``rewards`` say, or the model ``judge`` with its ``rubric``, which reads both answers in both orders.
    ``of`` is the number to give: the ``rate``, the ``low`` end of its 95% interval, or the same at equal length
    (``even``, ``even_low``). A model against itself has 0.5.
    """

    unit = "share"
    better = "higher"
    records = True

    rewards: Sequence[JsonValue] = ()
    judge: str = ""
    rubric: str = RUBRIC
    against: str = "base"
    of: Literal["rate", "low", "even", "even_low"] = "rate"
    max_new_tokens: int = 128
    temperature: float = 0.7
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Somebody must judge."""
        if bool(self.rewards) == bool(self.judge):
            raise UsageProblem("a win rate needs 'rewards' or a 'judge', one of them")
        if self.of not in ("rate", "low", "even", "even_low"):
            raise UsageProblem(f"a win rate is one of rate, low, even and even_low, got {self.of!r}")

    def __call__(self, subject: Subject, examples: Any) -> float:
        """From 0 to 1. ``examples`` are records."""
        records: Records = examples
        assert subject.named is not None
        way = Sampling(temperature=self.temperature, top_p=1, max_new_tokens=self.max_new_tokens, seed=subject.seed)
        rival, renderer = subject.named(self.against)
        if rival is subject.model:
            return 0.5
        asked = [prompt(where, record, subject.renderer) for where, record in records]
        ours = said(subject.model, subject.renderer, asked, way, self.batch_size)
        same = [prompt(where, record, renderer) for where, record in records]
        theirs = said(rival, renderer, same, way, self.batch_size)
        if [out.text for out in ours.answers] == [out.text for out in theirs.answers]:
            return 0.5
        wins = judged(ours, theirs, asked, self._judge(subject), subject.seed)
        subject.say(
            f"wins {wins.rate:.1%} ({wins.low:.1%} to {wins.high:.1%}) of {wins.count:,} against {self.against}, "
            f"{wins.ties} ties; {wins.controlled:.1%} ({wins.controlled_low:.1%} to {wins.controlled_high:.1%}) at "
            f"equal length; tokens {theirs.length():.0f} -> {ours.length():.0f}, "
            f"distinct pairs of words {theirs.distinct():.2f} -> {ours.distinct():.2f}"
        )
        found = {"rate": wins.rate, "low": wins.low, "even": wins.controlled, "even_low": wins.controlled_low}
        return found[self.of]

    def _judge(self, subject: Subject) -> Judge:
        if self.judge:
            assert subject.named is not None
            return Pairwise(*subject.named(self.judge), self.rubric)
        specs = READ.validate_python(list(self.rewards))
        return by_rewards([(spec.open(subject.models), spec.weight) for spec in specs])
