"""Documents cut to the context, and the count of everything that was cut, dropped or never trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from didact.data.answers import Judged
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
    shortened: int = 0

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
        if self.shortened:
            said.append(f"{self.shortened:,} texts longer than the context lost what is beyond it")
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
    """Stretches of one corpus, each at most ``context`` tokens: ``start``, ``length`` int64 [pieces].

    ``value`` float32 [pieces] is there where examples are of several texts, ``example`` int64 [pieces] (its number in
    the corpus) where they are prompts with answers; then a piece is a whole example.
    """

    corpus: Corpus
    start: np.ndarray
    length: np.ndarray
    value: np.ndarray | None = None
    example: np.ndarray | None = None


def cut(
    corpora: Sequence[Corpus],
    context: int,
    overlong: Literal["drop", "window"],
    where: str = "",
    joined: bool = False,
) -> tuple[list[Pieces], Counts]:
    """Cuts every corpus to the context.

    Of examples of several texts, each text keeps what fits the context (where they are ``joined``, its equal share of
    it), its last token included, and nothing is windowed. A prompt with answers is dropped where the longest of them
    does not fit behind it. Else windows overlap by one token, which is read but
    predicted by its own window alone: so every trained token of a windowed document is still predicted exactly once.
    Raises DataProblem, naming ``where``, when no trained token is left.
    """
    parts = [_cut(corpus, context, overlong, joined) for corpus in corpora]
    counts = total([c for _, c in parts])
    if counts.trained == 0:
        judged = any(corpus.judged is not None for corpus in corpora)
        long = f", {counts.dropped_overlong:,} longer than the context of {context}" if counts.dropped_overlong else ""
        raise DataProblem(
            f"no token of this data would be trained: {counts.documents:,} examples{long}",
            where=where,
            remedy=f"raise context{'' if judged else ', or set overlong: window'}"
            if long
            else "an example needs an answer, or text, to learn",
        )
    return [pieces for pieces, _ in parts], counts


def _cut(corpus: Corpus, context: int, overlong: str, joined: bool) -> tuple[Pieces, Counts]:
    if corpus.judged is not None:
        return _cut_answers(corpus, corpus.judged, context)
    if corpus.text is not None:
        return _cut_texts(corpus, corpus.text, context, joined)
    return _cut_one(corpus, context, overlong)


def filled(corpus: Corpus, multiple: int) -> Corpus:
    """Each document with its last trained token repeated, and trained, to a multiple of so many tokens.

    A model that reads in both directions learns so that an answer may end before its room does (LLaDA, Nie et al. 2025,
    arXiv:2502.09992, section 2.3).
    """
    lengths = np.diff(corpus.bound)
    extra = -lengths % multiple
    index = np.where(corpus.trained, np.arange(len(corpus.token)), -1)
    last = np.maximum.reduceat(index, corpus.bound[:-1])  # -1 where nothing is trained
    at = np.repeat(corpus.bound[1:], extra)
    return replace(
        corpus,
        token=np.insert(corpus.token, at, np.repeat(corpus.token[last], extra)),
        trained=np.insert(corpus.trained, at, np.repeat(last >= 0, extra)),
        bound=np.concatenate([[0], np.cumsum(lengths + extra)]),
    )


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


def _cut_texts(corpus: Corpus, text: np.ndarray, context: int, joined: bool) -> tuple[Pieces, Counts]:
    """Whole examples, each of their texts shortened to its room from its end on, but for its very last token."""
    lengths = np.diff(corpus.bound)
    example = np.repeat(np.arange(len(lengths)), lengths)
    first = np.flatnonzero(np.diff(text, prepend=-1) | np.diff(example, prepend=-1))  # where a text begins
    size = np.diff(first, append=len(text))
    place = np.arange(len(text)) - np.repeat(first, size)
    last = np.repeat(size, size) - 1
    room = context // np.bincount(example[first])[example] if joined else np.full(len(text), context)
    kept = (place < room - 1) | (place == last)
    trained = np.bincount(example, corpus.trained, len(lengths)).astype(np.int64)
    lengths = np.bincount(example[kept], minlength=len(lengths))
    shorter = replace(
        corpus,
        token=corpus.token[kept],
        trained=corpus.trained[kept],
        bound=np.concatenate([[0], np.cumsum(lengths)]),
        text=text[kept],
    )
    whole = trained > 0
    counts = Counts(
        documents=len(lengths),
        tokens=int(lengths[whole].sum()),
        trained=int(np.bincount(example[kept], shorter.trained, len(lengths))[whole].sum()),
        pieces=int(whole.sum()),
        dropped_untrained=int((~whole).sum()),
        shortened=int((size > room[first]).sum()),
    )
    value = None if corpus.value is None else corpus.value[whole]
    return Pieces(shorter, shorter.bound[:-1][whole], lengths[whole], value), counts


def _cut_answers(corpus: Corpus, judged: Judged, context: int) -> tuple[Pieces, Counts]:
    """Whole examples, whose longest answer fits the context together with the prompt."""
    lengths = np.diff(corpus.bound)
    example, answers = np.repeat(np.arange(len(lengths)), lengths), np.diff(judged.bound)
    number = judged.bound[:-1][example] + np.asarray(judged.branch) - 1  # whose answer a token belongs to
    size = np.bincount(number[judged.branch > 0], minlength=len(judged.score))
    shared = np.bincount(example[judged.branch == 0], minlength=len(lengths))
    long = shared + np.maximum.reduceat(size, judged.bound[:-1]) > context
    assert (answers > 0).all()
    trained = np.bincount(example, corpus.trained, len(lengths)).astype(np.int64)
    counts = Counts(
        documents=len(lengths),
        tokens=int(lengths[~long].sum()),
        trained=int(trained[~long].sum()),
        pieces=int((~long).sum()),
        dropped_overlong=int(long.sum()),
    )
    kept = np.flatnonzero(~long)
    return Pieces(corpus, corpus.bound[:-1][kept], lengths[kept], example=kept), counts
