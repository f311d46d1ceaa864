"""Prompts with an answer to another prompt beside their own: what tells a model's drift from what it was taught."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import nan

from didact.data.example import Answers, Example
from didact.data.together import prompt_key
from didact.errors import DataProblem


def mismatched(examples: Iterable[Example]) -> Iterator[Example]:
    """Each example with one more answer, last and without a value: one that was given to another prompt.

    It is of the example half the data away, or the next one of another prompt, so that every run sees the same; every
    answer is lent about as often as any other (KTO, arXiv:2402.01306, section 4.1). What was not judged is left out.
    Raises DataProblem where all prompts are the same, and for values that are no thumbs; other kinds of examples are
    passed on.
    """
    read = (_judged(example) if isinstance(example, Answers) else example for example in examples)
    found = [example for example in read if not isinstance(example, Answers) or example.answers]
    asked = [prompt_key(example.prompt) if isinstance(example, Answers) else "" for example in found]
    for number, example in enumerate(found):
        if not isinstance(example, Answers):
            yield example
            continue
        order = (number + len(found) // 2 + step for step in range(len(found)))
        lender = next((i % len(found) for i in order if asked[i % len(found)] != asked[number]), None)
        if lender is None:
            remedy = "give answers to two prompts at least"
            raise DataProblem(
                "all answers are to one prompt, so none is to another", where=example.where, remedy=remedy
            )
        other = found[lender]
        assert isinstance(other, Answers)
        lent = other.answers[number % len(other.answers)]
        yield replace(example, answers=(*example.answers, lent), values=(*example.values, nan))


def _judged(example: Answers) -> Answers:
    kept = [(said, value) for said, value in zip(example.answers, example.values, strict=True) if value == value]
    if any(value not in (0, 1) for _, value in kept):
        remedy = "give prompt, completion and a label of true or false; or take dpo or pl_dpo"
        raise DataProblem(
            "kto learns from thumbs, and this is a rating or a ranking", where=example.where, remedy=remedy
        )
    answers, values = tuple(said for said, _ in kept), tuple(value for _, value in kept)
    return replace(example, answers=answers, values=values, places=())
