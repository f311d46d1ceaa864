"""Texts to vectors with a whole model: in batches of equal work, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model.encoder import positions
from didact.model.model import Model
from didact.objective.pool import embed
from didact.text.render import Rendered, Renderer

TOKENS = 8192  # read at once


@dataclass(frozen=True)
class Embedder:
    """A model that makes vectors, read as ``embedding`` says; see ``didact.model.sentence.read`` for its keys."""

    model: Model
    renderer: Renderer
    embedding: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model, renderer: Renderer, embedding: Mapping[str, Any] | None = None) -> Embedder:
        """The model's own embedding, or the given one where it says nothing. Raises UsageProblem for neither."""
        own = model.served.get("embedding") or embedding
        if not own:
            what = "this model does not say how it makes a vector of a text"
            raise UsageProblem(what, remedy="train it with the objective contrast, or say its pool and bidirectional")
        return cls(model, renderer.embedding({"embedding": own}), own)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], role: str, dimensions: int | None = None, tokens: int = TOKENS) -> Tensor:
        """One vector a text, fp32 [N, D], on the CPU; ``role`` is ``query`` or ``document``.

        Texts beyond the model's length lose their end. ``dimensions`` keeps so many numbers of each vector, made
        unit length again. The model is in evaluation mode meanwhile.
        """
        longest = min(self.embedding.get("length") or positions(self.model.net.config), tokens)
        rendered = self.renderer.embeddings(texts, role, longest) if texts else []
        order = sorted(range(len(texts)), key=lambda number: len(rendered[number].tokens))
        made = torch.zeros(len(texts), self.model.net.config.get_text_config().hidden_size)
        training = self.model.training
        self.model.eval()
        for chunk in chunks(order, [len(one.tokens) for one in rendered], tokens):
            made[chunk] = self._vectors([rendered[number] for number in chunk]).float().cpu()
        self.model.train(training)
        return made if dimensions is None else torch.nn.functional.normalize(made[:, :dimensions], dim=-1)

    def _vectors(self, rendered: Sequence[Rendered]) -> Tensor:
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(one.tokens) for one in rendered])
        row = Batch(
            {
                "token": torch.tensor([token for one in rendered for token in one.tokens])[None],
                "trained": torch.tensor([mark for one in rendered for mark in one.trained])[None],
                "doc": torch.arange(len(rendered)).repeat_interleave(lengths)[None],
                "position": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
            }
        ).to(device)
        unit = self.embedding.get("normalize", True)
        return embed(self.model, row, len(rendered), self.embedding["pool"], self.embedding["bidirectional"], unit)[0]


def chunks(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Runs of ``order`` whose lengths add up to at most ``tokens``, longest first so that memory runs out at once."""
    made: list[list[int]] = []
    room = 0
    for number in reversed(order):
        if lengths[number] > room:
            made.append([])
            room = tokens
        made[-1].append(number)
        room -= lengths[number]
    return made
