"""Embedding similarity: texts that belong together come to lie close, all others apart.

A row is one example: its text 0 the anchor, text 1 the positive, the texts after these its hard negatives, of which
rows may have any number. Or two texts and ``value``, the score of how alike they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from didact.batch import Batch
from didact.errors import DataProblem, UsageProblem
from didact.objective.base import LanguageModel, Objective
from didact.objective.pool import POOLS, embed
from didact.rng import Rng


@dataclass(frozen=True)
class Contrast(Objective):
    """One number an example: how far the anchor is from its positive, held against other texts.

    ``form``: ``softmax`` over the positive, all other texts of the step on all processes and the row's hard negatives
    (InfoNCE, arXiv:1807.03748, equation 4), in both directions when ``symmetric``; ``triplet`` with the row's hard
    negatives and a ``margin`` (FaceNet, arXiv:1503.03832, equation 1); for scored pairs ``cosent`` (order of the
    scores) or ``cosine`` (squared error of the cosine). ``dimensions``: the first so many numbers of a vector must do
    as well, each a term of weight ``weights`` (Matryoshka, arXiv:2205.13147, equation 1). ``prompts`` by role
    (``query``, ``document``) stand before a text and are read, and not pooled unless ``pool_prompts``. What is not
    given of ``pool``, ``bidirectional``, ``prompts`` and ``pool_prompts`` is the model's own where it says how it is
    read, else ``mean``, true, none and false.

    Texts are embedded ``micro_batch_size`` rows at a time and made again in the backward, so memory does not grow with
    the batch (GradCache, arXiv:2101.06983). A text with no pooled token is absent: no item, no negative. Nor is one
    that is, word for word, the row's own positive.
    """

    generates: ClassVar[bool] = False
    several: ClassVar[bool] = True

    form: str = "softmax"
    temperature: float = 0.05
    symmetric: bool = False
    margin: float = 0.2
    pool: str | None = None
    bidirectional: bool | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    pool_prompts: bool | None = None
    dimensions: Sequence[int] = ()
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name, value, known in (("form", self.form, FORMS), ("pool", self.pool, (None, *POOLS))):
            if value not in known:
                remedy = f"choose one of {', '.join(each for each in known if each)}"
                raise UsageProblem(f"contrast has no {name} {value!r}", remedy=remedy)
        if not self.temperature > 0:
            raise UsageProblem(f"temperature is {self.temperature}", remedy="give a number above 0")
        if self.weights and len(self.weights) != len(self.dimensions):
            raise UsageProblem("contrast needs as many weights as dimensions", remedy="give each dimension its weight")
        if stray := set(self.prompts) - {"query", "document"}:
            raise UsageProblem(f"there is no role {min(stray)!r}", remedy="give prompts for query and document")

    def told(self, served: Mapping[str, Any]) -> Self:
        """Reads texts as the model it starts from does, where it says so and this does not."""
        known = served.get("embedding", {})
        return replace(
            self,
            pool=self.pool or known.get("pool", "mean"),
            bidirectional=known.get("bidirectional", True) if self.bidirectional is None else self.bidirectional,
            prompts=self.prompts or known.get("prompts", {}),
            pool_prompts=known.get("pool_prompts", False) if self.pool_prompts is None else self.pool_prompts,
        )

    def served(self) -> dict[str, Any]:
        """How the model makes a vector of a text."""
        reading: dict[str, Any] = {"pool": self.pool or "mean", "bidirectional": self.bidirectional is not False}
        reading |= {"prompts": dict(self.prompts), "pool_prompts": bool(self.pool_prompts)}
        return {"embedding": reading | ({"dimensions": list(self.dimensions)} if self.dimensions else {})}

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds ``key`` [B, S], what tells a text from another (0: absent), and the weight of the term, ``pair`` [B]."""
        if "value" not in batch:
            what = "contrast compares texts, and these examples have one each"
            raise DataProblem(what, remedy="give anchor and positive, or sentence1, sentence2 and score")
        scored = self.form in ("cosent", "cosine")
        if bool(batch.value.isnan().any() if scored else not batch.value.isnan().all()):
            what = f"these pairs have {'no' if scored else 'a'} score, which {self.form} does not go with"
            raise DataProblem(what, remedy="use softmax or triplet" if scored else "use cosent or cosine")
        texts = int(model.gather(batch.doc.max()[None] + 1).max().clamp(min=3 if self.form == "triplet" else 2))
        key = keys(batch, texts)
        item = (key[:, 0] != 0) & (key[:, 1] != 0)
        if self.form == "triplet":
            item &= (key[:, 2:] != 0).any(1)
        return batch.with_({"pair": item.float()}, key=key, chunk=torch.zeros_like(batch.row))

    def split(self, batch: Batch, rows: int) -> list[Batch]:
        """The step in one piece, for every text is held against all others; ``chunk`` [B] says what is read at once."""
        return [batch.with_(chunk=torch.arange(batch.size, device=batch.row.device) // rows)]

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """{pair: loss}, [B]."""
        vectors = self.vectors(model, batch)  # [B, S, D]
        sizes = self.dimensions or (vectors.shape[-1],)
        parts = zip(sizes, self.weights or [1.0] * len(sizes), strict=True)
        each = [w * FORMS[self.form](self, model, F.normalize(vectors[..., :d], dim=-1), batch) for d, w in parts]
        return {"pair": torch.stack(each).sum(0)}

    def vectors(self, model: LanguageModel, batch: Batch) -> Tensor:
        """The vectors of all texts, [B, S, D]."""
        reading = batch.key.shape[1], self.pool or "mean", self.bidirectional is not False
        chunks = [batch.rows(batch.chunk == number) for number in range(int(batch.chunk.max()) + 1)]
        if len(chunks) == 1:
            return embed(model, batch, *reading)
        return torch.cat([checkpoint(embed, model, chunk, *reading, use_reentrant=False) for chunk in chunks])


def keys(batch: Batch, texts: int) -> Tensor:
    """A number for each text that texts of other words do not share, int64 [B, texts]; 0 where nothing is pooled."""
    code = batch.token * 0x1E3779B97F4A7C15 + batch.position * 0x3F58476D1CE4E5B9 + 1
    code = (code ^ (code >> 30)) * 0x3F58476D1CE4E5B9  # SplitMix64's finaliser, as in didact.rng, over wrapping int64
    code = (code ^ (code >> 27)) * 0x14D049BB133111EB
    place = batch.doc.long() + 1  # padding goes to column 0
    empty = place.new_zeros(batch.size, texts + 1)
    said = empty.scatter_add(1, place, batch.trained.long())[:, 1:] > 0
    return torch.where(said, empty.scatter_add(1, place, code ^ (code >> 31))[:, 1:] | 1, 0)


def softmax(one: Contrast, model: LanguageModel, v: Tensor, batch: Batch) -> Tensor:
    """-log softmax(cos(anchor, .) / temperature)[positive], [B]; symmetric: the mean of both directions."""
    ahead = chosen(v[:, 0], model.gather(v[:, 1:]), batch.key[:, 1], model.gather(batch.key[:, 1:]), one.temperature)
    if not one.symmetric:
        return ahead
    anchors, key = model.gather(v[:, :1]), model.gather(batch.key[:, :1])
    return (ahead + chosen(v[:, 1], anchors, batch.key[:, 0], key, one.temperature)) / 2


def chosen(asking: Tensor, among: Tensor, own: Tensor, key: Tensor, temperature: float) -> Tensor:
    """-log-probability that text i finds what belongs to it, the first of row i of ``among``; [B].

    asking [B, D], among [A, C, D], own [B] and key [A, C]: what is absent, or equal to one's own, is left out.
    """
    score = asking @ among.flatten(0, 1).T / temperature  # [B, A * C]
    key, right = key.flatten(), torch.arange(len(asking), device=key.device) * key.shape[1]
    hide = ((key == 0) | (key == own[:, None])).scatter(1, right[:, None], False)
    return F.cross_entropy(score.masked_fill(hide, -torch.inf), right, reduction="none")


def triplet(one: Contrast, model: LanguageModel, v: Tensor, batch: Batch) -> Tensor:
    """max(|a - p| - |a - n| + margin, 0), the mean over the row's negatives, [B]."""
    apart = torch.linalg.vector_norm(v[:, :1] - v[:, 1:], dim=-1)  # [B, S - 1]
    there = batch.key[:, 2:] != 0
    each = (apart[:, :1] - apart[:, 1:] + one.margin).clamp(min=0) * there
    return each.sum(1) / there.sum(1).clamp(min=1)


def cosent(one: Contrast, model: LanguageModel, v: Tensor, batch: Batch) -> Tensor:
    """log(1 + sum exp((cos_i - cos_j) / temperature)) over all pairs i that should be less alike than j.

    One number for the whole step, the same for each of its rows, [B] (Su 2022, kexue.fm/archives/8847).
    """
    alike = model.gather((v[:, 0] * v[:, 1]).sum(-1)) / one.temperature
    value, there = model.gather(batch.value), model.gather(batch.weight["pair"]) > 0
    wrong = (value[:, None] < value) & there[:, None] & there
    gaps = (alike[:, None] - alike)[wrong]
    return torch.logsumexp(torch.cat([gaps.new_zeros(1), gaps]), 0).expand(batch.size)


def cosine(one: Contrast, model: LanguageModel, v: Tensor, batch: Batch) -> Tensor:
    """(cos(first, second) - score)^2, [B]."""
    return ((v[:, 0] * v[:, 1]).sum(-1) - batch.value).square()


FORMS: dict[str, Callable[[Contrast, LanguageModel, Tensor, Batch], Tensor]] = {
    "softmax": softmax,
    "triplet": triplet,
    "cosent": cosent,
    "cosine": cosine,
}
