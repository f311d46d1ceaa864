"""Whether a model prefers what people prefer, and whether it still finds that likely."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didact.data.corpus import in_memory
from didact.data.example import Answers, Example
from didact.data.pieces import cut
from didact.data.together import together
from didact.errors import DataProblem
from didact.measure.base import Measure, Subject
from didact.model.encoder import positions
from didact.model.model import Model
from didact.rollout.teacher import logprobs
from didact.text.render import Renderer

RESAMPLES = 1000
Scores = list[tuple[np.ndarray, np.ndarray]]  # of each prompt: what people, and what the model, find its answers worth


@dataclass(frozen=True)
class Preference(Measure):
    """Share of pairs of answers to one prompt that the model orders as people did; a tie of the model's is half.

    It prefers the likelier answer: log p(answer | prompt), a sum over tokens, or their ``average``. With ``against``,
    the base or a model by name, what answers gained on that one counts: the reward that alignment has left in a model
    (DPO, arXiv:2305.18290, section 4). Examples are judged answers; ratings and thumbs are compared where they are of
    one prompt. An interval of 95%, over prompts drawn anew, is said.
    """

    unit = "accuracy"
    better = "higher"

    average: bool = False
    against: str = ""
    context: int = 1024

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """From 0 to 1."""
        scores = worth(subject.model, subject.renderer, examples, self.context, self.average)
        if self.against:
            assert subject.named is not None
            other = worth(*subject.named(self.against), examples, self.context, self.average)
            if len(other) != len(scores):
                what = "the two models do not read the same of these answers"
                raise DataProblem(what, where=examples[0].where, remedy="lower context to what both have positions for")
            scores = [(said, ours - theirs) for (said, ours), (_, theirs) in zip(scores, other, strict=True)]
        right, of = np.array([_ordered(said, found) for said, found in scores]).reshape(-1, 2).T
        if not of.sum():
            what = f"of {len(scores):,} prompts none has answers that people judged apart"
            raise DataProblem(what, where=examples[0].where, remedy="give chosen and rejected, rankings or ratings")
        drawn = np.random.default_rng(subject.seed).integers(len(of), size=(RESAMPLES, len(of)))
        shares = right[drawn].sum(1) / np.maximum(of[drawn].sum(1), 1)
        low, high = np.quantile(shares, [0.025, 0.975])
        rate = float(right.sum() / of.sum())
        subject.say(f"{rate:.1%} ({low:.1%} to {high:.1%}) of {int(of.sum()):,} pairs in the people's order")
        return rate


@dataclass(frozen=True)
class Chosen(Measure):
    """Mean log-probability a token of the answers that people found best (all that were liked, of thumbs), in nats.

    What falls far below the base's has forgotten how to say what people like: DPO's known failure.
    """

    unit = "nats"
    better = "higher"

    context: int = 1024

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """Below zero; the mean over answers."""
        scores = worth(subject.model, subject.renderer, examples, self.context, True)
        judged = [(said[said == said], found[said == said]) for said, found in scores if (said == said).any()]
        best = [found[(said == said.max()) & ((said > said.min()) | (said > 0))] for said, found in judged]
        if not sum(map(len, best)):
            what = f"of {len(scores):,} prompts none has an answer that people liked or found best"
            raise DataProblem(what, where=examples[0].where, remedy="give chosen and rejected, rankings, or thumbs up")
        return float(np.concatenate(best).mean())


def worth(model: Model, renderer: Renderer, examples: Sequence[Example], context: int, average: bool) -> Scores:
    """What people and the model find each prompt's answers worth. Raises DataProblem for other examples."""
    given = [one for one in together(examples) if isinstance(one, Answers)]
    if not given or sum(len(one.answers) for one in given) < len(examples):
        remedy = "give chosen and rejected, rankings, ratings or thumbs"
        raise DataProblem("nobody judged these answers", where=examples[0].where, remedy=remedy)
    corpus, context = in_memory(given, renderer), min(context, positions(model.net.config))
    judged, found = corpus.judged, logprobs(model, corpus, context)
    assert judged is not None
    kept = cut([corpus], context, "drop")[0][0].example
    assert kept is not None
    number = np.repeat(judged.bound[:-1], np.diff(corpus.bound)) + judged.branch - 1
    number = number[np.asarray(corpus.trained)]  # whose answer each trained token is
    total = np.bincount(number, found, len(judged.score))
    if average:
        total = total / np.bincount(number, minlength=len(judged.score)).clip(min=1)
    return [(judged.score[judged.of(i)], total[judged.of(i)]) for i in kept]


def _ordered(said: np.ndarray, found: np.ndarray) -> tuple[float, int]:
    """How many pairs the model has in the people's order, and how many there are."""
    better = said[:, None] > said[None, :]
    agrees = (np.sign(found[:, None] - found[None, :]) + 1) / 2
    return float(agrees[better].sum()), int(better.sum())
