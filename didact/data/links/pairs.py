"""Pairs of segments: contiguous in one document, from two at random, or from two of which one points at the other.

LinkBERT (Yasunaga et al. 2022, arXiv:2203.15827), sections 4.1 and 4.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from didact.data.example import RELATIONS
from didact.data.links.graph import Links


@dataclass(frozen=True)
class Pair:
    """Two segments, the documents they are from, and how they are related: one of RELATIONS."""

    first: str
    second: str
    relation: str
    pages: tuple[str, str]

    def record(self) -> dict[str, object]:
        """As a line of data."""
        return {"first": self.first, "second": self.second, "relation": self.relation, "pages": self.pages}


def segments(text: str, size: int) -> list[str]:
    """A text cut into stretches of at most ``size`` characters, between lines where that fills half of one, else words.

    A word longer than that is cut too. Together they are the text, but for white space at the cuts.
    """
    found, rest = [], text.strip()
    while len(rest) > size:
        line, space = rest.rfind("\n", 0, size + 1), max(rest.rfind(mark, 0, size + 1) for mark in " \n\t")
        end = line if line >= size // 2 else space if space > 0 else size
        found.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*found, *([rest] if rest else [])]


@dataclass(frozen=True)
class Drawing:
    """Draws pairs from a graph whose documents were cut into ``segments``: [documents][segments].

    ``anchored`` takes for first texts those that hold a link, and for second ones, but for contiguous pairs, how a
    document begins: the one that the link leads to, or another.
    """

    links: Links
    segments: Sequence[Sequence[str]]
    anchored: bool = False

    def anchors(self, relations: Sequence[str]) -> list[tuple[int, int]]:
        """(document, segment) of the segments that can stand first in a pair of every relation.

        Only these, so that the first text alone never tells the relation.
        """
        return [
            (page, at)
            for page, cut in enumerate(self.segments)
            for at in range(len(cut))
            if all(self._can(relation, page, at) for relation in relations)
            and not (self.anchored and not len(self._led(page, at)))
        ]

    def pairs(self, relations: Sequence[str], passes: int, seed: int) -> Iterator[Pair]:
        """``passes`` pairs of every anchor, each relation as often as the others, give or take one; in random order."""
        rng = np.random.default_rng(seed)
        chances = self.links.chances()
        anchors = self.anchors(relations) * passes
        for n, i in enumerate(rng.permutation(len(anchors))):
            relation, (page, at) = relations[n % len(relations)], anchors[i]
            if relation == "contiguous":
                other, place = page, at + 1
            else:
                if relation == "linked":
                    out, chance = self.links.out[page], chances[page]
                    if self.anchored:
                        chance = np.where(np.isin(out, self._led(page, at)), chance, 0)
                    other = int(rng.choice(out, p=chance / chance.sum()))
                else:
                    other = self._stranger(page, rng)
                place = 0 if self.anchored else int(rng.integers(len(self.segments[other])))
            names = self.links.pages[page].name, self.links.pages[other].name
            yield Pair(self.segments[page][at], self.segments[other][place], relation, names)

    def _can(self, relation: str, page: int, at: int) -> bool:
        match relation:
            case "contiguous":
                return at + 1 < len(self.segments[page])
            case "linked":
                return len(self.links.out[page]) > 0
            case _:
                return len(self._near(page)) < len(self.segments)

    def _led(self, page: int, at: int) -> np.ndarray:
        """The documents that the links in a segment lead to."""
        stood, begin = self.links.places[page], self._begins[page][at]
        return stood[(stood[:, 0] >= begin) & (stood[:, 0] < begin + len(self.segments[page][at])), 1]

    @cached_property
    def _begins(self) -> list[list[int]]:
        """Where in its document each segment begins."""
        found = []
        for page, cut in zip(self.links.pages, self.segments, strict=True):
            ends = [0]
            for segment in cut:
                ends.append(page.text.index(segment, ends[-1]) + len(segment))
            found.append([end - len(segment) for end, segment in zip(ends[1:], cut, strict=True)])
        return found

    def _near(self, page: int) -> set[int]:
        return {page, *self.links.out[page].tolist()}

    def _stranger(self, page: int, rng: np.random.Generator) -> int:
        """A document that this one does not point at."""
        near = self._near(page)
        while (other := int(rng.integers(len(self.segments)))) in near:
            pass
        return other


def exchanged(pairs: Sequence[Pair]) -> list[Pair]:
    """The same texts, each first one before the second one of the next pair: what pairs are held against."""
    following = [*pairs[1:], *pairs[:1]]
    return [
        Pair(pair.first, other.second, "random", (pair.pages[0], other.pages[1]))
        for pair, other in zip(pairs, following, strict=True)
    ]


def balance(pairs: Sequence[Pair]) -> str:
    """How many pairs there are of each relation, in words."""
    count = Counter(pair.relation for pair in pairs)
    return ", ".join(f"{count[relation]:,} {relation}" for relation in RELATIONS if count[relation])
