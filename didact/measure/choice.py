"""How often a model finds the right one of several texts that might follow a prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from didact.batch import Batch
from didact.data.example import Completion, Example
from didact.errors import DataProblem
from didact.measure.base import Measure, Subject
from didact.model.model import Model
from didact.objective.tokens import causal_reach, next_token, prefix_reach
from didact.text.render import Rendered


@dataclass(frozen=True)
class Choice(Measure):
    """Share of prompts whose completion has the highest log-probability among its ``options``.

    log p(option | prompt) is the sum over the option's tokens and the end of text after it, so that no option wins
    because another one begins with it. Examples are of ``prompt``, ``completion`` and ``options``. ``batch_size``
    counts options read at once.
    """

    unit = "accuracy"
    better = "higher"

    batch_size: int = 32

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """From 0 to 1."""
        asked = [_asked(example) for example in examples]
        mine = asked[subject.mesh.rank :: subject.mesh.size]
        right = torch.zeros((), dtype=torch.float64)
        scores = _scores(subject, mine, self.batch_size)
        for one in mine:
            logprob = torch.tensor([next(scores) for _ in one.options])
            right += one.options[int(logprob.argmax())] == one.completion
        return (subject.mesh.sum({"right": right})["right"] / len(asked)).item()


def _asked(example: Example) -> Completion:
    if not isinstance(example, Completion) or not example.options:
        raise DataProblem(
            "no options to choose from", where=example.where, remedy="give prompt, completion and options"
        )
    return example


def _scores(subject: Subject, asked: Sequence[Completion], rows: int) -> Iterator[float]:
    """log p of every option after its prompt, in order; those of like length are read together."""
    read = [subject.renderer.completion(one.prompt, option) for one in asked for option in one.options]
    found = torch.zeros(len(read))
    order = sorted(range(len(read)), key=lambda i: len(read[i].tokens))
    for start in range(0, len(read), rows):
        chosen = order[start : start + rows]
        batch = _padded([read[i] for i in chosen]).to(subject.mesh.device)
        found[chosen] = _logprob(subject.model, batch).cpu()
    return iter(found.tolist())


def _padded(read: Sequence[Rendered]) -> Batch:
    """One option with its prompt a row."""
    length = max(len(one.tokens) for one in read)

    def column(rows: Sequence[Sequence[int]], empty: int) -> Tensor:
        return torch.tensor([[*row, *[empty] * (length - len(row))] for row in rows])

    return Batch(
        {
            "token": column([one.tokens for one in read], 0),
            "doc": column([[0] * len(one.tokens) for one in read], -1).int(),
            "position": torch.arange(length).expand(len(read), length),
            "trained": column([one.trained for one in read], 0).bool(),
        }
    )


@torch.no_grad()
def _logprob(model: Model, batch: Batch) -> Tensor:
    """Summed over the trained tokens of each row, [B]."""
    reach = prefix_reach(batch) if model.bidirectional_prompt else causal_reach(batch)
    target, where = next_token(batch)
    return model.logprob(model.hidden(batch.with_(reach=reach)), target, where).sum(1)
