"""What a reward model says of an answer, or several that learned the same judgements apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from didact.data.settings import Data
from didact.errors import DataProblem
from didact.rollout.reward.base import Answered, Models, Reward, Rewarding

if TYPE_CHECKING:
    import torch

    from didact.model.classifier import Classifier

TOKENS = 8192  # read at once


class Model(Rewarding):
    """What the reward model in the folder ``path`` says: what a ``reward`` stage left, or ``hub:org/name``.

    Of several (``ensemble``) it is the mean less ``caution`` standard deviations, or the ``min`` (Coste et al. 2023,
    arXiv:2310.02743): where they do not agree, the answer is like nothing that they learned from.
    """

    kind = "model"
    first = "path"
    path: str = Field(min_length=1)
    of: Literal["mean", "min"] = "mean"
    caution: float = Field(default=0.0, ge=0, description="standard deviations of the ensemble")

    def inputs(self) -> Data | None:
        """The folder."""
        return None if self.path.startswith("hub:") else Data.model_validate(self.path)

    def open(self, models: Models) -> Reward:
        """The models, on the device."""
        return Scorer(self, models.classifiers(self.path.removeprefix("hub:")))


class Scorer:
    """Scores answers with reward models."""

    def __init__(self, spec: Model, members: Sequence[Classifier]):
        self.spec, self.members, self.name = spec, members, spec.name or spec.kind

    def __call__(self, done: Sequence[Answered]) -> list[float]:
        """What each answer is worth."""
        import torch

        said = torch.stack([worth(one, done) for one in self.members])  # [members, N]
        if self.spec.of == "min":
            return said.amin(0).tolist()
        return (said.mean(0) - self.spec.caution * said.std(0, correction=0)).tolist()


def worth(one: Classifier, done: Sequence[Answered]) -> torch.Tensor:
    """The rewards of answers, fp32 [N] on the CPU; each is read behind its prompt, as it was in training."""
    import torch

    from didact.model.embed import chunks
    from didact.objective.reward import rewards

    texts = [_tokens(one, each) for each in done]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts))
    with torch.no_grad():
        for chunk in chunks(order, [len(text) for text in texts], TOKENS):
            found[chunk] = rewards(one.model, _row([texts[i] for i in chunk], one))[0].cpu()
    return found


def _tokens(one: Classifier, each: Answered) -> list[int]:
    """A prompt that is text in its record is gone on from; else the two are turns."""
    from didact.model.encoder import positions

    given = each.record.get("prompt")
    prompt: Any = given if isinstance(given, str) else each.prompt
    tokens = one.renderer.answers(prompt, (each.answer,)).tokens
    room = min(positions(one.model.net.config), TOKENS)
    if len(tokens) > room:
        what = f"prompt and answer have {len(tokens):,} tokens, and the reward model reads {room:,}"
        raise DataProblem(what, where=each.where, remedy="lower rollout.max_new_tokens, or leave the record out")
    return tokens


def _row(texts: Sequence[list[int]], one: Classifier) -> Any:
    """The texts beside each other in one row, each a document with one answer."""
    import torch

    from didact.batch import Batch

    lengths = torch.tensor([len(text) for text in texts])
    doc = torch.arange(len(texts)).repeat_interleave(lengths)[None]
    position = torch.cat([torch.arange(length) for length in lengths.tolist()])[None]
    token = torch.tensor([token for text in texts for token in text])[None]
    row = {"token": token, "doc": doc, "position": position, "answer": doc, "of": torch.arange(len(texts))[None]}
    reach = torch.arange(token.shape[1])[None]
    return Batch({**row, "reach": reach}).to(next(one.model.parameters()).device)
