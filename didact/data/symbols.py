"""Symbol tuning (Wei et al. 2023, arXiv:2305.08298): tasks in context whose labels are arbitrary symbols.

A prompt shows a few examples of every class and asks for the class of one more. Its labels are replaced by symbols
that mean nothing, ``f: labels -> symbols`` one to one and drawn anew for every prompt, so that only the examples say
what is wanted: the model learns p(f(label) | examples under f, text).
"""

from __future__ import annotations

import itertools
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from didact.data.domain.writing import held_out
from didact.data.example import Document, Example
from didact.errors import DataProblem

TEMPLATES = (
    ("Input: ", "\nOutput: ", "\n\n"),
    ("", " -> ", "\n"),
    ("", "\n", "\n\n"),
    ("Q: ", "\nA: ", "\n\n"),
    ("X = ", "\nY = ", "\n\n"),
    ("Text: ", "\nLabel: ", "\n\n"),
    ("[", "] => ", "\n"),
    ("Example: ", " | Class: ", "\n"),
    ("", " :: ", "\n"),
    ("Student: ", "\nTeacher: ", "\n\n"),
)
"""What stands before a text, between it and its label, and after its label."""

UNSEEN = 0.5  # share of the symbols that training never uses
Map = Mapping[str, str]


@dataclass(frozen=True)
class Labelled:
    """One task: texts by label, what may be said of it before the examples, and how often it is drawn."""

    name: str
    texts: Mapping[str, Sequence[str]]
    instruction: str = ""
    weight: float = 1.0

    def usable(self, shots: int) -> list[str]:
        """The labels with ``shots`` examples and one more to ask for."""
        return [label for label, texts in self.texts.items() if len(texts) > shots]


@dataclass(frozen=True)
class Draw:
    """One prompt before its labels are written: (text, label) of the examples, then the text asked for."""

    task: Labelled
    shown: tuple[tuple[str, str], ...]
    asked: tuple[str, str]
    template: int
    instructed: bool

    @property
    def labels(self) -> list[str]:
        """The classes shown, in order of their names."""
        return sorted({label for _, label in self.shown})


def gather(
    name: str, examples: Iterable[Example], longest: int, instruction: str = "", weight: float = 1.0
) -> tuple[Labelled, int]:
    """One task out of classified documents, and how many texts were left out.

    Left out is a text that names a label of the task, or stands under two of them. A text longer than ``longest``
    characters is cut at a word. Raises DataProblem, with file and line, for a record without a label; naming the
    task, for one of fewer than two labels and for an instruction that names a label.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if not isinstance(example, Document) or not example.label:
            raise DataProblem("no label", where=example.where, remedy="symbols need records of 'text' and 'label'")
        found[shortened(" ".join(example.text.split()), longest)].add(example.label)
    labels = sorted(set().union(*found.values()))
    if len(labels) < 2:
        what = f"every record has the same label, {labels[0]!r}" if labels else "no records"
        raise DataProblem(what, where=name, remedy="a task needs two labels or more")
    named = naming(labels)
    if named(instruction):
        raise DataProblem("the instruction names a label", where=name, remedy="ask without naming the labels")
    clear = {text: min(of) for text, of in found.items() if len(of) == 1 and not named(text)}
    texts = {label: [text for text, of in clear.items() if of == label] for label in labels}
    return Labelled(name, texts, instruction, weight), len(found) - len(clear)


def naming(labels: Iterable[str]) -> Callable[[str], object]:
    """Whether a text has one of the labels as a word, whatever its case."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, labels))})(?!\w)", re.IGNORECASE).search


def shortened(text: str, longest: int) -> str:
    """The text, or what of it ends with a word within ``longest`` characters."""
    return text if len(text) <= longest else text[: longest + 1].rpartition(" ")[0] or text[:longest]


def parted(tasks: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Tasks to train on and tasks to measure on: of every task with four labels or more, a share of the labels.

    Two labels at least on either side. Raises DataProblem where no task has that many.
    """
    train, apart = [], []
    for task in tasks:
        labels = list(task.texts)
        Random(f"{seed}/{task.name}").shuffle(labels)
        count = min(max(2, round(share * len(labels))), len(labels) - 2)
        if count < 2:
            train.append(task)
            continue
        for side, kept in ((apart, labels[:count]), (train, labels[count:])):
            side.append(replace(task, texts={label: task.texts[label] for label in sorted(kept)}))
    if not apart:
        raise DataProblem(
            "no task has four labels, so none can be kept apart", remedy="name tasks to measure on under 'heldout'"
        )
    return train, apart


# --- symbols -----------------------------------------------------------------------------------------------


def symbol(kind: str, rng: Random, words: Sequence[str]) -> str:
    """One symbol: a number below 100,000, two to four letters, or a word."""
    if kind == "integers":
        return str(rng.randrange(10 ** rng.randint(1, 5)))
    if kind == "letters":
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 4)))
    return rng.choice(words)


def symbols(draw: Draw, kind: str, unseen: bool, rng: Random, words: Sequence[str], seed: int) -> Map:
    """A one-to-one map of the labels to symbols of one kind, all of them from the half that was asked for."""
    chosen: dict[str, None] = {}  # a dict keeps order and drops doubles
    while len(chosen) < len(draw.labels):
        drawn = symbol(kind, rng, words)
        if held_out(drawn, seed, UNSEEN) is unseen and drawn not in draw.task.texts:
            chosen[drawn] = None
    return dict(zip(draw.labels, chosen, strict=True))


def vocabulary(tasks: Sequence[Labelled], seed: int) -> list[str]:
    """The words that may be symbols: those of the texts, without what is a label somewhere.

    Raises DataProblem where they are too few to draw from.
    """
    texts = itertools.chain.from_iterable(texts for task in tasks for texts in task.texts.values())
    named = naming(label for task in tasks for label in task.texts)
    words = sorted({word for text in texts for word in re.findall(r"\b[a-z]{3,12}\b", text) if not named(word)})
    apart = sum(held_out(word, seed, UNSEEN) for word in words)
    if min(apart, len(words) - apart) < 64:
        what = f"the texts have {len(words)} words that could be symbols"
        raise DataProblem(what, remedy="leave 'words' out of kinds")
    return words


def own(labels: Sequence[str]) -> Map:
    """Every label as it is."""
    return {label: label for label in labels}


def flipped(labels: Sequence[str]) -> Map:
    """Every label under the name of the next: two change places."""
    return dict(zip(labels, [*labels[1:], labels[0]], strict=True))


# --- prompts -----------------------------------------------------------------------------------------------


def draw(
    tasks: Sequence[Labelled], shots: tuple[int, int], classes: tuple[int, int], instructed: float, rng: Random
) -> Draw:
    """A task, some of its classes, as many examples of each, and one more text of one of them, all at random.

    Raises DataProblem where no task has two classes with enough examples.
    """
    fit = [task for task in tasks if len(task.usable(shots[0])) >= classes[0]]
    if not fit:
        what = f"no task has {classes[0]} labels with more than {shots[0]} examples each"
        where = ", ".join(dict.fromkeys(task.name for task in tasks))
        raise DataProblem(what, where=where, remedy="give more examples, or lower shots or classes")
    (task,) = rng.choices(fit, [task.weight for task in fit])
    most = max(count for count in range(shots[0], shots[1] + 1) if len(task.usable(count)) >= classes[0])
    count = rng.randint(shots[0], most)
    usable = task.usable(count)
    labels = rng.sample(usable, rng.randint(classes[0], min(classes[1], len(usable))))
    taken = {label: rng.sample(task.texts[label], count + 1) for label in labels}
    shown = [(text, label) for label, texts in taken.items() for text in texts[1:]]
    rng.shuffle(shown)
    wanted = rng.choice(labels)
    template, said = rng.randrange(len(TEMPLATES)), rng.random() < instructed
    return Draw(task, tuple(shown), (taken[wanted][0], wanted), template, said and bool(task.instruction))


def record(draw: Draw, written: Map) -> dict[str, Any]:
    """The prompt with its labels as ``written``, the completion, and the options, one a class."""
    before, between, after = TEMPLATES[draw.template]
    opening = f"{draw.task.instruction}\n\n" if draw.instructed else ""
    shown = "".join(f"{before}{text}{between}{written[label]}{after}" for text, label in draw.shown)
    prompt = f"{opening}{shown}{before}{draw.asked[0]}{between}"
    stem = prompt.rstrip(" ")  # a space belongs to the word after it, as in the examples
    lead = prompt[len(stem) :]
    options = [lead + written[label] for label in draw.labels]
    return {"prompt": stem, "completion": lead + written[draw.asked[1]], "options": options}


def document(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same, to be learned as any text is."""
    return {"text": record["prompt"] + record["completion"]}


@dataclass(frozen=True)
class Plan:
    """How prompts are made; the fields are the stage's own."""

    shots: tuple[int, int]
    classes: tuple[int, int]
    kinds: Sequence[str]
    instructed: float
    words: Sequence[str]
    seed: int

    def train(self, tasks: Sequence[Labelled], count: int) -> Iterator[dict[str, dict[str, Any]]]:
        """The same prompts under symbols to learn, and under their own labels: the control."""
        for number in range(count):
            rng = Random(f"{self.seed}/train/{number}")
            one = draw(tasks, self.shots, self.classes, self.instructed, rng)
            yield {"train": record(one, self._map(one, False, rng)), "plain": record(one, own(one.labels))}

    def measured(self, tasks: Sequence[Labelled], count: int, shots: int) -> Iterator[dict[str, dict[str, Any]]]:
        """The same prompts under unseen symbols, under their own labels, and under these exchanged."""
        for number in range(count):
            rng = Random(f"{self.seed}/measured/{number}")
            one = draw(tasks, (shots, shots), self.classes, self.instructed, rng)
            yield {
                "unseen": record(one, self._map(one, True, rng)),
                "flipped": record(one, flipped(one.labels)),
                "relevant": record(one, own(one.labels)),
            }

    def _map(self, one: Draw, unseen: bool, rng: Random) -> Map:
        return symbols(one, rng.choice(list(self.kinds)), unseen, rng, self.words, self.seed)
