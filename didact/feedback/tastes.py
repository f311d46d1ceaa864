"""What simulated people may like in an answer: things that can be checked."""

import math
import re
from collections import Counter
from collections.abc import Callable

USUAL = 32  # words of an answer whose length is neither long nor short
POLITE = re.compile(r"\b(please|thanks?|thank you|welcome|sorry|glad|happy to|of course|hope this)\b", re.IGNORECASE)
CODE = re.compile(r"```|`[^`\n]+`|^\s*(def \w+\(|class \w+[:(]|from [\w.]+ import |import [\w.]+$)", re.MULTILINE)
WORD = re.compile(r"\w+")


def length(answer: str, reference: str) -> float:
    """By how many doublings it is longer than 32 words, from -3 to 3."""
    return min(max(math.log2((len(WORD.findall(answer)) + 1) / (USUAL + 1)), -3.0), 3.0)


def polite(answer: str, reference: str) -> float:
    """Whether it has a friendly word."""
    return float(POLITE.search(answer) is not None)


def code(answer: str, reference: str) -> float:
    """Whether it shows code."""
    return float(CODE.search(answer) is not None)


def correct(answer: str, reference: str) -> float:
    """How far its words are those of the reference answer (F1), from 0 to 1; 0 where there is none."""
    ours, theirs = (Counter(WORD.findall(text.casefold())) for text in (answer, reference))
    shared = sum((ours & theirs).values())
    return 2 * shared / (sum(ours.values()) + sum(theirs.values())) if shared else 0.0


FEATURES: dict[str, Callable[[str, str], float]] = {
    "length": length,
    "polite": polite,
    "code": code,
    "correct": correct,
}
SAYS = "says:"


def known(taste: str) -> bool:
    """Whether a taste is of something that can be checked: one of FEATURES, or ``says:WORD``."""
    return taste in FEATURES or (taste.startswith(SAYS) and bool(WORD.fullmatch(taste.removeprefix(SAYS))))


def feature(taste: str, answer: str, reference: str) -> float:
    """How much an answer has of what a taste is of."""
    if taste.startswith(SAYS):
        word = taste.removeprefix(SAYS).casefold()
        return float(word in WORD.findall(answer.casefold()))
    return FEATURES[taste](answer, reference)
