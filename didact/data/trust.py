"""How much each person's judgements are to count, found from where several judged the same (Dawid and Skene)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from didact.data.pieces import Pieces
from didact.errors import DataProblem
from didact.feedback.agreement import Vote, dawid_skene, table

SUREST = 0.99  # as reliable as anybody is taken to be


def trusted(parts: Sequence[Pieces]) -> tuple[list[Pieces], str]:
    """The data with ``trust``, what each judgement counts, and what is to be said of it.

    A judgement counts log(p / (1 - p)), over the mean of all annotators, where p is how often its annotator is right;
    of one who is right no more often than chance it is nothing. Who judged nothing together with others, and judgements
    of nobody in particular, count 1. Raises DataProblem where no two people judged the same.
    """
    votes = [vote for part in parts for vote in _votes(part)]
    values, _, names = table(votes) if votes else (np.zeros((0, 0)), [], [])
    values = values[:, (~np.isnan(values)).sum(0) > 1]
    if not values.size:
        remedy = "leave out annotators: dawid_skene, or give judgements with their annotators that overlap"
        raise DataProblem("no two people judged the same, so nobody's reliability can be known", remedy=remedy)
    said = np.where(np.isnan(values), -1, values).astype(int)
    known = np.flatnonzero((said >= 0).any(1))
    right = dawid_skene(said, 2).accuracy[known].clip(0.5, SUREST)
    log_odds = np.log(right / (1 - right))
    weight = log_odds / log_odds.mean() if log_odds.any() else np.ones_like(log_odds)
    found = dict(zip([int(names[i]) for i in known], weight, strict=True))
    line = (
        f"{len(found):,} annotators are right in {right.min():.0%} to {right.max():.0%} of what they judged together; "
        f"their judgements count {weight.min():.2f} to {weight.max():.2f}"
    )
    return [_weighed(part, found) for part in parts], line


def _weighed(part: Pieces, found: dict[int, float]) -> Pieces:
    judged = part.corpus.judged
    assert judged is not None
    trust = np.asarray([found.get(int(who), 1.0) for who in judged.who], np.float32)
    return replace(part, corpus=replace(part.corpus, judged=replace(judged, trust=trust)))


def _votes(part: Pieces) -> Iterator[Vote]:
    """What each annotator said of a thumb (1 or 0), and of each two answers (1: the first in an order of their own)."""
    corpus, judged = part.corpus, part.corpus.judged
    assert judged is not None
    for example in range(len(corpus)):
        span, said = slice(corpus.bound[example], corpus.bound[example + 1]), judged.of(example)
        who = str(int(judged.who[said.start]))
        if who == "0":
            continue
        token, branch = np.asarray(corpus.token[span]), np.asarray(judged.branch[span])
        prompt = token[branch == 0].tobytes()
        texts = [token[branch == 1 + number].tobytes() for number in range(said.stop - said.start)]
        known = [(text, score) for text, score in zip(texts, judged.score[said], strict=True) if score == score]
        if len(known) == 1:
            yield (prompt, known[0][0]), who, float(known[0][1] > 0)
        for (one, high), (other, low) in combinations(sorted(known), 2):
            if high != low and one != other:
                yield (prompt, one, other), who, float(high > low)
