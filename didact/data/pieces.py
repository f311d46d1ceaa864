"""Documents cut to the context, and the count of everything that was cut, dropped or never trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from didact.data.corpus import Corpus
from didact.errors import DataProblem


@dataclass(frozen=True)
class Counts:
    """What became of the data. ``trained`` counts predicted tokens, ``tokens`` all that are read."""

    documents: int = 0
    tokens: int = 0
    trained: int = 0
    windowed: int = 0
    pieces: int = 0
    dropped_overlong: int = 0
    dropped_untrained: int = 0

    def lines(self) -> list[str]:
        """What a user should hear: nothing is cut or dropped silently."""
        said = [
            f"{self.documents:,} examples, {self.tokens:,} tokens read, {self.trained:,} trained "
            f"({self.trained / max(self.tokens, 1):.0%})"
        ]
        if self.windowed:
            said.append(f"{self.windowed:,} examples longer than the context were cut into windows")
        if self.dropped_overlong:
            said.append(f"{self.dropped_overlong:,} examples longer than the context were dropped (overlong: drop)")
        if self.dropped_untrained:
            said.append(f"{self.dropped_untrained:,} pieces without a trained token were left out")
        return said

    def numbers(self) -> dict[str, int]:
        """As a dict, for metrics and reports."""
        return asdict(self)


def total(counts: Sequence[Counts]) -> Counts:
    """The counts of several sources together."""
    return Counts(*(sum(values) for values in zip(*(c.numbers().values() for c in counts), strict=True)))


@dataclass(frozen=True)
class Pieces:
    """Stretches of one corpus, each at most ``context`` tokens: ``start``, ``length`` int64 [pieces]."""

    corpus: Corpus
    start: np.ndarray
    length: np.ndarray


def cut(
    corpora: Sequence[Corpus], context: int, overlong: Literal["drop", "window"], where: str = ""
) -> tuple[list[Pieces], Counts]:
    """Cuts every corpus to the context.

    Windows overlap by one token, which is read but predicted by its own window alone: so every trained token of a
    windowed document is still predicted exactly once. Raises DataProblem, naming ``where``, when no trained token is
    left.
    """
    parts = [_cut_one(corpus, context, overlong) for corpus in corpora]
    counts = total([c for _, c in parts])
    if counts.trained == 0:
        long = f", {counts.dropped_overlong:,} longer than the context of {context}" if counts.dropped_overlong else ""
        raise DataProblem(
            f"no token of this data would be trained: {counts.documents:,} examples{long}",
            where=where,
            remedy="raise context, or set overlong: window"
            if long
            else "an example needs an answer, or text, to learn",
        )
    return [pieces for pieces, _ in parts], counts


def _cut_one(corpus: Corpus, context: int, overlong: str) -> tuple[Pieces, Counts]:
    lengths = np.diff(corpus.bound)
    long = lengths > context
    start, length = corpus.bound[:-1], lengths
    if overlong == "drop":
        start, length = start[~long], length[~long]
    elif long.any():
        windows = np.where(long, -(-(lengths - 1) // (context - 1)), 1)
        nth = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)
        start = np.repeat(start, windows) + nth * (context - 1)
        length = np.minimum(np.repeat(corpus.bound[1:], windows) - start, context)
    so_far = np.concatenate([[0], np.cumsum(corpus.trained)])
    trained = so_far[start + length] - so_far[np.minimum(start + 1, start + length)]  # the first token has no context
    keep = trained > 0
    counts = Counts(
        documents=len(lengths),
        tokens=int(length[keep].sum()),
        trained=int(trained[keep].sum()),
        windowed=int(long.sum()) if overlong == "window" else 0,
        pieces=int(keep.sum()),
        dropped_overlong=int(long.sum()) if overlong == "drop" else 0,
        dropped_untrained=int((~keep).sum()),
    )
    return Pieces(corpus, start[keep], length[keep]), counts
