"""Prompts are drawn until a phase has its number of groups with signal: dynamic sampling (DAPO, arXiv:2503.14476, 3.2).

Which prompts a phase has is a function of where it begins and of what its answers were worth, and so is where the next
one begins: it does not depend on how many processes drew them, nor on what was drawn in excess.
"""

from collections.abc import Callable
from math import ceil
from typing import TypeVar

Group = TypeVar("Group")


def filled(
    draw: Callable[[range], list[Group]], tells: Callable[[Group], bool], first: int, size: int, batches: int
) -> tuple[list[Group], list[Group]]:
    """The ``size`` groups of a phase, and all that were drawn up to the last of them, both in the prompts' order.

    ``draw`` gives the groups of a range of prompts, of which the first is asked as the ``first`` of the run. It is
    asked ``batches`` times at most, for ``size`` groups at most; if too few of these tell something, others fill up.
    """
    found: list[Group] = []
    telling: list[int] = []
    for _ in range(batches):
        share = max(len(telling), 1) / max(len(found), 1)
        count = min(size, ceil((size - len(telling)) / share))
        found += draw(range(first + len(found), first + len(found) + count))
        telling = [number for number, group in enumerate(found) if tells(group)]
        if len(telling) >= size:
            found = found[: telling[size - 1] + 1]
            break
    silent = [number for number in range(len(found)) if number not in telling]
    return [found[number] for number in sorted([*telling, *silent][:size])], found
