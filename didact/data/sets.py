"""From what a recipe names to tokenized sources: the one way into training, evaluation and the X-ray."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from didact.data.answers import Judged
from didact.data.corpus import Corpus, corpus_key, encode
from didact.data.example import Example
from didact.data.mismatched import mismatched
from didact.data.settings import Data
from didact.data.source import examples
from didact.data.together import together
from didact.errors import DataProblem
from didact.objective.base import Objective
from didact.text.render import Renderer

JUDGED = (
    "answers that people judged, and nothing here learns from judgements",
    "keep prompt and completion, or messages, of the good ones; of feedback, name feedback:good",
)
UNJUDGED = (
    "this learns from judgements, and these examples have none",
    "give prompt, chosen and rejected; prompt, completion and label; or rankings",
)


def tokenized(
    data: Data, outputs: Mapping[str, Path], seed: int, renderer: Renderer, cache: Path, objective: Objective
) -> list[Corpus]:
    """One corpus a source, from the cache where the same content was tokenized the same way before.

    Raises DataProblem where the examples are answers that people judged and the ``objective`` does not learn from these
    (bad ones among them are not to be imitated), or it does and they are not.
    """
    corpora = []
    for source, found in zip(data.sources, examples(data, outputs, seed), strict=True):
        key = f"{found.fingerprint}{' mismatched' * objective.mismatched}{' together' * objective.compares}"
        corpus = encode(arranged(found, objective), renderer, cache, corpus_key(key, renderer.key), source.weight)
        if objective.judged != (corpus.judged is not None):
            what, remedy = UNJUDGED if objective.judged else JUDGED
            raise DataProblem(what, where=source.path, remedy=remedy)
        corpora.append(corpus)
    return corpora


def arranged(found: Iterable[Example], objective: Objective) -> Iterable[Example]:
    """The examples as the objective wants them beside each other."""
    if objective.mismatched:
        return mismatched(found)
    return together(found) if objective.compares else found


def subset(corpus: Corpus, limit: int, seed: int) -> Corpus:
    """At most ``limit`` examples of a corpus, chosen by the seed, in their order."""
    if len(corpus) <= limit:
        return corpus
    return taken(corpus, np.sort(np.random.default_rng(seed).permutation(len(corpus))[:limit]))


def taken(corpus: Corpus, chosen: np.ndarray) -> Corpus:
    """The examples of these numbers, in this order."""
    spans = [slice(corpus.bound[i], corpus.bound[i + 1]) for i in chosen]

    def of(column: np.ndarray, spans: Sequence[slice] = spans) -> np.ndarray:
        return np.concatenate([column[:0], *(column[span] for span in spans)])

    judged = corpus.judged
    if judged is not None:
        said = [judged.of(i) for i in chosen]
        bound = np.cumsum([0, *(one.stop - one.start for one in said)])
        judged = Judged(of(judged.branch), of(judged.score, said), of(judged.who, said), bound)
    return replace(
        corpus,
        token=of(corpus.token),
        trained=of(corpus.trained),
        bound=np.cumsum([0, *(span.stop - span.start for span in spans)]),
        text_bytes=corpus.text_bytes[chosen],
        text=None if corpus.text is None else of(corpus.text),
        value=None if corpus.value is None else corpus.value[chosen],
        judged=judged,
    )
