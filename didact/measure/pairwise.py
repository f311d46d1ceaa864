"""A model as judge: it reads a question and two answers, in both orders, and says which is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model.model import Model
from didact.objective.tokens import causal_reach, prefix_reach
from didact.rollout.reward.base import Answered
from didact.text.render import Renderer

RUBRIC = "Which answer is more correct, more helpful and clearer? Length alone is no merit."
TASK = """{rubric}

Question:
{question}

Answer A:
{first}

Answer B:
{second}

Reply with one letter, A or B."""


@dataclass
class Pairwise:
    """Judges pairs by which letter is likelier as the reply; where the two orders do not agree it is a tie.

    ``swayed`` counts the pairs of which the place decided, ``count`` all of them.
    """

    model: Model
    renderer: Renderer
    rubric: str = RUBRIC
    swayed: int = 0
    count: int = 0

    def __call__(self, ours: Sequence[Answered], theirs: Sequence[Answered]) -> list[float]:
        """1 where ours is better, 0 where theirs is, 0.5 for a tie."""
        return [self._verdict(a, b) for a, b in zip(ours, theirs, strict=True)]

    def _verdict(self, ours: Answered, theirs: Answered) -> float:
        if ours.answer == theirs.answer:
            return 0.5
        ahead, behind = self._first_wins(ours, theirs), self._first_wins(theirs, ours)
        self.count += 1
        self.swayed += ahead == behind
        return 0.5 if ahead == behind else float(ahead)

    @torch.no_grad()
    def _first_wins(self, first: Answered, second: Answered) -> bool:
        question = "\n".join(str(turn.get("content", "")) for turn in first.prompt)
        asked = TASK.format(rubric=self.rubric, question=question, first=first.answer, second=second.answer)
        tokens = self.renderer.prompt([{"role": "user", "content": asked}])
        token = torch.tensor([tokens], device=next(self.model.parameters()).device)
        index = torch.arange(token.shape[1], device=token.device)[None]
        batch = Batch({"token": token, "position": index, "doc": torch.zeros_like(index).int()})
        batch = batch.with_(trained=torch.zeros_like(index).bool())
        reach = prefix_reach(batch) if self.model.bidirectional_prompt else causal_reach(batch)
        logits = self.model.logits(self.model.hidden(batch.with_(reach=reach))[:, -1])[0]
        a, b = (self._letter(letter) for letter in "AB")
        return bool(logits[a] > logits[b])

    def _letter(self, letter: str) -> int:
        ids = self.renderer.tokenizer.encode(letter, add_special_tokens=False)
        if len(ids) != 1:
            what = f"the judge's tokenizer has no token of its own for {letter!r}"
            raise UsageProblem(what, remedy="name another judge")
        return ids[0]
