"""Passages in the order a language model gives them: how well does each explain the question?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from didact.batch import Batch
from didact.model.encoder import positions
from didact.model.model import Model
from didact.objective.tokens import causal_reach, next_token, prefix_reach
from didact.text.render import Rendered, Renderer

PROMPT = "{passage}\n\nA question that this text answers: "
TOKENS = 4096  # read at once


@dataclass(frozen=True)
class Reranker:
    """Scores of a causal model: the mean log p(token of the question | passage) (arXiv:2204.07496, equation 2)."""

    model: Model
    renderer: Renderer

    @torch.no_grad()
    def __call__(self, query: str, passages: Sequence[str]) -> list[float]:
        """One score a passage. A passage too long for the model loses its end. Raises UsageProblem for an encoder."""
        self.model.check_writes()
        training = self.model.training
        self.model.eval()
        read = [self._rendered(query, passage) for passage in passages]
        scores = [score for chunk in _chunks(read) for score in self._scored(chunk)]
        self.model.train(training)
        return scores

    def _rendered(self, query: str, passage: str) -> Rendered:
        longest = min(positions(self.model.net.config), TOKENS)
        whole = self.renderer.completion(PROMPT.format(passage=passage), query)
        beyond = len(whole.tokens) - longest
        if beyond <= 0 or not passage:
            return whole
        share = max(0.0, 1 - 1.1 * beyond / sum(not trained for trained in whole.trained))
        return self._rendered(query, passage[: int(share * len(passage))])

    def _scored(self, read: Sequence[Rendered]) -> list[float]:
        lengths = torch.tensor([len(one.tokens) for one in read])
        batch = Batch(
            {
                "token": torch.tensor([token for one in read for token in one.tokens])[None],
                "trained": torch.tensor([mark for one in read for mark in one.trained])[None],
                "doc": torch.arange(len(read)).repeat_interleave(lengths)[None],
                "position": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
            }
        ).to(next(self.model.parameters()).device)
        reach = prefix_reach(batch) if self.model.bidirectional_prompt else causal_reach(batch)
        target, where = next_token(batch)
        logprob = self.model.logprob(self.model.hidden(batch.with_(reach=reach)), target, where)[0].cpu()
        parts = zip(logprob.split(lengths.tolist()), where[0].cpu().split(lengths.tolist()), strict=True)
        return [(part.sum() / counted.sum()).item() for part, counted in parts]


def _chunks(read: Sequence[Rendered]) -> list[list[Rendered]]:
    """In their order, so many at once as have ``TOKENS`` tokens together."""
    made: list[list[Rendered]] = []
    room = 0
    for one in read:
        if len(one.tokens) > room:
            made.append([])
            room = TOKENS
        made[-1].append(one)
        room -= len(one.tokens)
    return made
