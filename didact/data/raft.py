"""Questions to be answered out of passages: the right one among others, as they are given at use.

RAFT (Zhang et al. 2024, arXiv:2403.10131): in a share P of the prompts the document that holds the answer stands among
distractors, in the rest there are distractors alone, and the answer quotes what it stands on. With P = 1 and what a
search finds in place of chosen distractors it is the retriever-aware training of Gorilla (Patil et al. 2023,
arXiv:2305.15334): the documentation is given in training as it will be at use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from didact.text.quote import Quotation, defused, quoted, task

REFUSAL = "The passages do not answer this."
SENTENCE = re.compile(r"[^\s.!?][^\n.!?]*(?:[.!?](?!\s|$)[^\n.!?]*)*[.!?]?")
SAID = 20  # characters from which on an answer that stands in another passage makes that one right too


class Passage(Protocol):
    """A passage of an index."""

    @property
    def text(self) -> str:
        """What it says."""
        ...

    @property
    def source(self) -> str:
        """The document it is of."""
        ...


@dataclass(frozen=True)
class Asked:
    """A question with its answer, the ``gold`` passages of the document that answers it, and what a search finds."""

    question: str
    answer: str
    gold: Sequence[Passage]
    found: Sequence[Passage]

    @property
    def right(self) -> Passage:
        """The passage of the right document that has most words of the answer and the question."""
        return max(self.gold, key=lambda passage: shared(passage.text, f"{self.answer} {self.question}"))

    def wrong(self, count: int) -> list[Passage]:
        """The nearest passages of other documents in which the answer does not stand as well."""
        said = self.answer if len(self.answer) >= SAID else None
        gold = {one.source for one in self.gold}
        others = (one for one in self.found if one.source not in gold)
        return [one for one in others if said is None or said not in one.text][:count]


@dataclass(frozen=True)
class Plan:
    """How prompts are made; the fields are the stage's own."""

    golden: float
    distractors: int
    quote: bool
    refuse: bool
    found: bool
    seed: int

    def learned(self, asked: Sequence[Asked]) -> Iterator[dict[str, Any]]:
        """A conversation a question; exactly the share ``golden`` of them has the right passage, at any place."""
        if self.found:
            yield from map(self._as_found, asked)
            return
        order = sorted(range(len(asked)), key=lambda i: Random(f"{self.seed}/golden/{i}").random())
        golden = set(order[: round(self.golden * len(asked))])
        for number, one in enumerate(asked):
            rng = Random(f"{self.seed}/{number}")
            right = one.right if number in golden else None
            yield self._record(one, right, one.wrong(self.distractors + (right is None)), rng)

    def measured(self, asked: Sequence[Asked], distractors: int) -> Iterator[dict[str, Any]]:
        """The right passage among so many others, every question; the same place and others for the same question."""
        for number, one in enumerate(asked):
            yield self._record(one, one.right, one.wrong(distractors), Random(f"{self.seed}/measured/{number}"))

    def _as_found(self, one: Asked) -> dict[str, Any]:
        """What the search finds, in its order, the right passage among it or not."""
        shown = one.found[: self.distractors + 1]
        gold = {passage.source for passage in one.gold}
        return self._said(one, shown, next((i for i, each in enumerate(shown) if each.source in gold), None))

    def _record(self, one: Asked, right: Passage | None, wrong: Sequence[Passage], rng: Random) -> dict[str, Any]:
        place = rng.randrange(len(wrong) + 1)
        if right is None:
            return self._said(one, wrong, None)
        return self._said(one, [*wrong[:place], right, *wrong[place:]], place)

    def _said(self, one: Asked, shown: Sequence[Passage], place: int | None) -> dict[str, Any]:
        """The conversation; ``place`` is where the right passage is shown."""
        answer = REFUSAL if self.refuse and place is None else one.answer
        if self.quote and place is not None:
            answer = f"> {quotation(shown[place], one)} [{place + 1}]\n\n{answer}"
        return conversation(one.question, answer, shown)


def conversation(question: str, answer: str, shown: Sequence[Passage]) -> dict[str, Any]:
    """A chat whose question comes behind passages, in the words of the server; ``documents`` are their sources."""
    content = quoted([Quotation(each.text, each.source) for each in shown], question)
    turns = [("system", task()), ("user", content), ("assistant", answer)]
    messages = [{"role": role, "content": said} for role, said in turns]
    return {"messages": messages, "documents": [each.source for each in shown]}


def closed(one: Asked) -> dict[str, Any]:
    """The question by itself."""
    turns = [("user", one.question), ("assistant", one.answer)]
    return {"messages": [{"role": role, "content": said} for role, said in turns], "documents": []}


def quotation(right: Passage, one: Asked) -> str:
    """The sentence of the right passage, as it is shown, that has most words of the answer and the question."""
    text = defused(right.text)
    found = [match.group().rstrip() for match in SENTENCE.finditer(text)] or [text.strip().split("\n")[0]]
    return max(found, key=lambda sentence: shared(sentence, f"{one.answer} {one.question}"))


def shared(text: str, wanted: str) -> float:
    """How many of the wanted words a text has, fewer other words being better among equals."""
    said, asked = words(text), words(wanted)
    return len(said & asked) - len(said - asked) / (1 + len(said))


def words(text: str) -> set[str]:
    """The words of a text, whatever their case."""
    return {word.lower() for word in re.findall(r"\w+", text)}


def files(plan: Plan, train: Sequence[Asked], apart: Sequence[Asked], counts: Sequence[int]) -> Mapping[str, list[Any]]:
    """``train``, and of the held-out questions ``closed`` and ``openN`` for each number of distractors."""
    measured = {f"open{count}": list(plan.measured(apart, count)) for count in counts}
    return {"train": list(plan.learned(train)), "closed": [closed(one) for one in apart], **measured}
