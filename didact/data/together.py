"""Answers that were judged one by one, brought together by their prompt, so that they can be compared."""

import json
from collections.abc import Iterable, Iterator

from didact.data.example import Answers, Example, Said


def together(examples: Iterable[Example]) -> Iterator[Example]:
    """Single answers to one prompt, judged by one annotator, as one example, where the first of them stood.

    So ratings and thumbs become an order of the answers to a prompt. Other examples are passed on.
    """
    found: list[Example | tuple[str, str]] = []
    single: dict[tuple[str, str], list[Answers]] = {}
    for example in examples:
        if not isinstance(example, Answers) or len(example.answers) != 1:
            found.append(example)
            continue
        key = (prompt_key(example.prompt), example.annotator)
        if key not in single:
            found.append(key)
        single.setdefault(key, []).append(example)
    for one in found:
        yield _joined(single[one]) if isinstance(one, tuple) else one


def _joined(given: list[Answers]) -> Answers:
    first = given[0]
    answers = tuple(answer for one in given for answer in one.answers)
    return Answers(first.where, first.prompt, answers, tuple(v for one in given for v in one.values), first.annotator)


def prompt_key(prompt: Said) -> str:
    """What prompts that are alike have in common."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
