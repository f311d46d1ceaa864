"""Which document points at which, and how likely each is to be chosen beside one that points at it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from didact.data.links.pages import Page
from didact.errors import DataProblem

INDEX = ("", ".html", ".md", "/index.html", "/index.md", "/README.md")  # what a link may leave out
COMMON = 0.2  # words of a larger share of the documents say nothing of which are near


@dataclass(frozen=True)
class Links:
    """``out[i]`` are the numbers of the documents that document i points at: sorted, each once, never itself.

    ``broken`` counts links to a name that no document has, ``outside`` those to other sites. ``places[i]`` are the
    places in document i's text where a link stands, with the number of the document it leads to, [n, 2].
    """

    pages: Sequence[Page]
    out: Sequence[np.ndarray]
    broken: int = 0
    outside: int = 0
    places: Sequence[np.ndarray] = ()

    @property
    def count(self) -> int:
        """Pairs of documents of which the first points at the second."""
        return sum(map(len, self.out))

    def chances(self) -> list[np.ndarray]:
        """For each document, how likely each of ``out`` is to be chosen beside it: as 1 / its in-degree.

        Else the few that everyone points at would be most of what is learned (LinkBERT, section 4.2).
        """
        degree = np.bincount(np.concatenate([*self.out, np.zeros(0, int)]), minlength=len(self.pages))
        weight = [1 / degree[out] for out in self.out]
        return [w / w.sum() if len(w) else w for w in weight]

    def among(self, chosen: Collection[int]) -> Links:
        """The documents of these numbers, and the links between them."""
        order = sorted(chosen)
        new = {old: i for i, old in enumerate(order)}
        out = [np.array([new[j] for j in self.out[i].tolist() if j in new], int) for i in order]
        places = [
            np.array([(at, new[j]) for at, j in self.places[i].tolist() if j in new], int).reshape(-1, 2)
            for i in (order if self.places else ())
        ]
        return Links([self.pages[i] for i in order], out, places=places)


def linked(pages: Sequence[Page]) -> Links:
    """The graph of the links that the documents name. Raises DataProblem for two documents of one name."""
    number: dict[str, int] = {}
    for i, page in enumerate(pages):
        if page.name in number:
            other = pages[number[page.name]].where
            raise DataProblem(
                f"{page.name!r} is already the name of {other}", where=page.where, remedy="give each its own id"
            )
        number[page.name] = i
    title = {_plain(page.title): i for i, page in reversed(list(enumerate(pages)))}  # the first of equals
    out, places, broken = [], [], 0
    for i, page in enumerate(pages):
        found = [_target(name, number, title) for name in page.links]
        broken += found.count(None)
        out.append(np.array(sorted({j for j in found if j is not None and j != i}), int))
        stood = zip(page.places, found, strict=True) if page.places else ()
        places.append(np.array([(at, j) for at, j in stood if j is not None and j != i], int).reshape(-1, 2))
    return Links(pages, out, broken, sum(page.outside for page in pages), places)


def _target(name: str, number: dict[str, int], title: dict[str, int]) -> int | None:
    bare = name.rstrip("/")
    found = next((number[bare + end] for end in INDEX if bare + end in number), None)
    return title.get(_plain(name)) if found is None else found


def _plain(title: str) -> str:
    """A wiki does not tell spaces from underscores, nor the case of the first letter."""
    words = " ".join(title.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def nearest(pages: Sequence[Page], count: int) -> Links:
    """Each document's ``count`` nearest others by the cosine of their tf-idf vectors: (1 + log tf) log(N / df)."""
    words = [Counter(re.findall(r"\w+", page.text.lower())) for page in pages]
    df = Counter(word for said in words for word in said)
    idf = {word: np.log(len(pages) / n) for word, n in df.items() if 1 < n <= max(2, COMMON * len(pages))}
    vectors = [{w: (1 + np.log(n)) * idf[w] for w, n in said.items() if w in idf} for said in words]
    places: dict[str, list[int]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    for i, vector in enumerate(vectors):
        norm = sum(value * value for value in vector.values()) ** 0.5
        for word, value in vector.items():
            places[word].append(i)
            values[word].append(value / norm)
    out = []
    for i, vector in enumerate(vectors):
        score = np.zeros(len(pages))
        for word, value in vector.items():
            score[places[word]] += value * np.array(values[word])
        score[i] = 0
        best = np.argsort(-score, kind="stable")[:count]
        out.append(np.sort(best[score[best] > 0]))
    return Links(pages, out)
