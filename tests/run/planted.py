"""Rewards for the gauges to watch: one that pays for length, an honest one, and what people would have liked."""

from didact.rollout.reward.base import Answered


def long(one: Answered) -> float:
    """Pays for every character."""
    return len(one.answer) / 10


def liked(one: Answered) -> float:
    """Some like it short: what is really wanted."""
    return -abs(len(one.answer) - 12) / 10


def vowels(one: Answered) -> float:
    """The share of vowels: nothing that length could buy."""
    return sum(letter in "aeiou" for letter in one.answer) / max(len(one.answer), 1)


def first_vowels(one: Answered) -> float:
    """Nearly the same, of the first half of the answer."""
    half = one.answer[: max(len(one.answer) // 2, 1)]
    return sum(letter in "aeiou" for letter in half) / max(len(half), 1)
