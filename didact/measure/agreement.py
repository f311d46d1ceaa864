"""How often a model would have said what the data says; on a prompted model's answers, how far it agrees with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from didact.batch import Batch
from didact.data.corpus import render
from didact.data.example import Example
from didact.measure.base import Measure, Subject
from didact.objective.tokens import causal_reach, next_token, prefix_reach


@dataclass(frozen=True)
class Agreement(Measure):
    """Share of the answers' tokens that are the model's greedy choice after the same beginning; the end counts too.

    With ``whole`` the share of answers of which every token is: those that greedy sampling would repeat word for word.
    Where the data is another model's own greedy answers, this is how far the two agree.
    """

    unit = "share"
    better = "higher"

    whole: bool = False

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """The share, over all examples."""
        found = [self._agrees(subject, example) for example in examples]
        return fmean(all(each) for each in found) if self.whole else fmean(one for each in found for one in each)

    def _agrees(self, subject: Subject, example: Example) -> list[bool]:
        """Whether each trained token of one example is the model's choice."""
        rendered = render([example], subject.renderer)[0]
        token = torch.tensor([rendered.tokens], device=subject.mesh.device)
        index = torch.arange(token.shape[1], device=subject.mesh.device)[None]
        trained = torch.tensor([rendered.trained], device=subject.mesh.device)
        batch = Batch({"token": token, "position": index, "doc": torch.zeros_like(index).int(), "trained": trained})
        reach = prefix_reach(batch) if subject.model.bidirectional_prompt else causal_reach(batch)
        target, asked = next_token(batch)
        hidden = subject.model.hidden(batch.with_(reach=reach))[asked.bool()]
        return (subject.model.logits(hidden).argmax(-1) == target[asked.bool()]).tolist()
