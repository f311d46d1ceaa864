"""``stop_when``: rules of a recipe that end a stage, such as ``kl > 10`` or ``reward/heldout falls 50 steps``."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 512  # steps that a rule may look back

GAUGE = r"(?P<gauge>[A-Za-z_][\w.-]*(?:/[\w.-]+)*)"
NUMBER = r"(?P<bound>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
LEVEL = re.compile(rf"{GAUGE}\s*(?P<sign><|>)\s*{NUMBER}(?:\s+for\s+(?P<steps>\d+)\s+steps?)?")
TREND = re.compile(rf"{GAUGE}\s+(?P<sign>falls|rises)\s+(?:for\s+)?(?P<steps>\d+)\s+steps?")


@dataclass(frozen=True)
class Rule:
    """What of which gauge ends the stage: ``sign`` is < or > than ``bound`` for so many steps, or falls or rises."""

    text: str
    gauge: str
    sign: str
    steps: int = 1
    bound: float = 0.0

    def of(self, task: str, term: str) -> bool:
        """Whether the rule speaks of this gauge: ``kl`` is that of any task, ``grpo/kl`` that of one."""
        return self.gauge in (term, f"{task}/{term}")


def rule(text: str) -> Rule:
    """Reads one; raises ValueError for text that is none."""
    plain = " ".join(text.split())
    if match := LEVEL.fullmatch(plain):
        found = Rule(plain, match["gauge"], match["sign"], int(match["steps"] or 1), float(match["bound"]))
    elif match := TREND.fullmatch(plain):
        found = Rule(plain, match["gauge"], match["sign"], int(match["steps"]))
        if found.steps < 3:
            raise ValueError(f"a trend needs at least 3 steps, got {plain[:80]!r}")
    else:
        wanted = "'kl > 10', 'entropy < 0.1 for 20 steps' or 'reward/heldout falls 50 steps'"
        raise ValueError(f"a rule is like {wanted}, got {text[:80]!r}")
    if not 1 <= found.steps <= LONGEST:
        raise ValueError(f"a rule looks back over 1 to {LONGEST} steps, got {plain[:80]!r}")
    return found


def _readable(text: str) -> str:
    rule(text)
    return text


StopRule = Annotated[str, AfterValidator(_readable)]
