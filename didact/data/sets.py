"""From what a recipe names to tokenized sources: the one way into training, evaluation and the X-ray."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from didact.data.corpus import Corpus, corpus_key, encode
from didact.data.mismatched import mismatched
from didact.data.settings import Data
from didact.data.source import examples
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
        key = found.fingerprint + (" and answers to other prompts" if objective.mismatched else "")
        given = mismatched(found) if objective.mismatched else found
        corpus = encode(given, renderer, cache, corpus_key(key, renderer.key), source.weight)
        if objective.judged != (corpus.judged is not None):
            what, remedy = UNJUDGED if objective.judged else JUDGED
            raise DataProblem(what, where=source.path, remedy=remedy)
        corpora.append(corpus)
    return corpora


def subset(corpus: Corpus, limit: int, seed: int) -> Corpus:
    """At most ``limit`` examples of a corpus, chosen by the seed, in their order."""
    if len(corpus) <= limit:
        return corpus
    chosen = np.sort(np.random.default_rng(seed).permutation(len(corpus))[:limit])
    spans = [slice(corpus.bound[i], corpus.bound[i + 1]) for i in chosen]
    return replace(
        corpus,
        token=np.concatenate([corpus.token[span] for span in spans]),
        trained=np.concatenate([corpus.trained[span] for span in spans]),
        bound=np.concatenate([[0], np.cumsum([span.stop - span.start for span in spans])]),
        text_bytes=corpus.text_bytes[chosen],
        text=None if corpus.text is None else np.concatenate([corpus.text[span] for span in spans]),
        value=None if corpus.value is None else corpus.value[chosen],
    )
