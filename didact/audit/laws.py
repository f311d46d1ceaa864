"""The laws that every objective obeys, as measurements: each returns how far it is from holding, 0 at best.

The tests hold them against every objective at toy size; ``didact doctor`` against the user's own model and data.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from didact.audit.toy import toy_acted
from didact.batch import Batch
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.model.model import Model
from didact.objective.base import LanguageModel, Objective
from didact.objective.diffusion import Diffusion
from didact.rng import Rng
from didact.rollout.diffusion import Draft


def gradient(model: nn.Module) -> dict[str, Tensor]:
    """Every gradient, taken off the model."""
    found = {}
    for name, p in model.named_parameters():
        if p.grad is not None:
            found[name], p.grad = p.grad.detach().clone(), None
    return found


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the first."""
    if one.keys() != other.keys():
        return float("inf")
    apart = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    whole = sum(float(value.double().square().sum()) for value in one.values())
    return (apart / max(whole, 1e-300)) ** 0.5


def step_gradient(
    model: Model, objective: Objective, batch: Batch, micro_rows: int, seed: int = 0
) -> dict[str, Tensor]:
    """The gradient that one step on ``batch`` gives."""
    device = next(model.parameters()).device
    take_step(model, [Task("task", objective, _once(batch))], Mesh(device), Rng(seed, 0), micro_rows)
    return gradient(model)


def micro_batches(model: Model, objective: Objective, batch: Batch) -> float:
    """Law 1: the gradient of the whole batch at once against row by row."""
    return distance(step_gradient(model, objective, batch, batch.size), step_gradient(model, objective, batch, 1))


@dataclass(frozen=True)
class Prepared(Objective):
    """An objective whose batches are prepared already: everything it draws is drawn."""

    made: Objective

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """The batch as it is."""
        return batch

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """The objective's own."""
        return self.made.loss(model, batch)

    def split(self, batch: Batch, rows: int) -> list[Batch]:
        """The objective's own."""
        return self.made.split(batch, rows)


def packing(model: Model, objective: Objective, packed: Batch) -> float:
    """Law 2: the gradient of packed rows against one document a row.

    What an objective draws for the packed rows goes with their tokens. One that draws nothing must also find the same
    in the documents alone. Where a row is one example of several texts, it keeps its texts, but each is read by itself
    and padding is of any width and content; texts that are joined see each other, and no other example. A prompt stays
    with its answers.
    """
    if objective.several and not objective.joined:
        with reading_alone(model) as alone:
            found = step_gradient(alone, objective, widened(packed), packed.size)
        return distance(step_gradient(model, objective, packed, packed.size), found)
    ready = prepared(model, objective, packed)
    apart: list[tuple[Objective, Batch, Batch]] = []
    if not objective.judged:  # what is prepared for an answer is not a token's
        apart.append((Prepared(objective), ready, unpacked(ready)))
    if not objective.joined and not draws(model, objective, packed):
        apart.append((objective, packed, unpacked(packed)))
    return max(
        distance(step_gradient(model, kind, one, one.size), step_gradient(model, kind, other, other.size))
        for kind, one, other in apart
    )


@contextmanager
def reading_alone(model: Model) -> Iterator[Model]:
    """The model, which for a while reads every document in a row of its own."""
    read: Any = model.hidden

    def hidden(batch: Batch) -> Tensor:
        apart = unpacked(batch)
        found = read(apart)
        made = found.new_zeros(*batch["doc"].shape, found.shape[-1])
        return made.masked_scatter((batch["doc"] >= 0)[..., None], found[apart["doc"] >= 0])

    model.hidden = hidden
    try:
        yield model
    finally:
        del model.hidden


def widened(batch: Batch) -> Batch:
    """The batch with more padding, of tokens that mean nothing."""
    fill = {"token": 3, "doc": -1, "position": 5, "trained": 0}
    wider = {name: nn.functional.pad(batch[name], (0, 7), value=value) for name, value in fill.items()}
    wider = Batch({**batch, **wider}, batch.weight)
    return wider.with_(token=wider.token.masked_fill(wider.doc < 0, 3))


@torch.no_grad()
def prepared(model: Model, objective: Objective, batch: Batch, seed: int = 0) -> Batch:
    """The batch as ``loss`` sees it."""
    return objective.prepare(model, batch, Rng(seed, 0))


def draws(model: Model, objective: Objective, batch: Batch) -> bool:
    """Whether what an objective prepares depends on its randomness."""
    one, other = (prepared(model, objective, batch, seed) for seed in (0, 1))
    pairs = [(one[name], other[name]) for name in one] + [(one.weight[term], other.weight[term]) for term in one.weight]
    return not all(bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)  # NaN is what nobody judged


def weight_zero(model: Model, objective: Objective, batch: Batch) -> float:
    """Law 3: the last row is untrained; then its content must not matter, nor whether it is there."""
    mute = batch["trained"].clone()
    mute[-1] = False
    other = batch["token"].clone()
    other[-1] = other[-1].flip(0)
    with_row = step_gradient(model, objective, batch.with_(trained=mute), batch.size)
    changed = step_gradient(model, objective, batch.with_(trained=mute, token=other), batch.size)
    without = step_gradient(model, objective, batch.rows(slice(0, batch.size - 1)), batch.size)
    return max(distance(with_row, changed), distance(with_row, without))


def unpacked(batch: Batch) -> Batch:
    """The documents of packed rows, one a row, padded; what was prepared for a token goes with it."""
    device = batch["doc"].device
    spans = [(row, span) for row in range(batch.size) for span in _spans(batch["doc"][row])]
    rows = torch.tensor([row for row, _ in spans], device=device)
    start = torch.tensor([span.start for _, span in spans], device=device)[:, None]
    length = torch.tensor([span.stop for _, span in spans], device=device)[:, None] - start
    index = torch.arange(int(length.max()), device=device).expand(len(spans), -1)

    def alone(column: Tensor) -> Tensor:
        """A row's column goes with each of its documents, a token's with the token."""
        if column.shape[:2] != batch["doc"].shape:
            return column[rows]
        made = column.new_zeros(*index.shape, *column.shape[2:])
        for number, (row, span) in enumerate(spans):
            made[number, : span.stop - span.start] = column[row, span]
        return made

    columns = {name: alone(column) for name, column in batch.items()}
    if "of" in batch:  # a row's answers, of which each document keeps its own
        mine = columns["of"] == batch["doc"][rows, start[:, 0]][:, None]
        columns["of"] = torch.where(mine, 0, -1)
        columns["score"] = columns["score"].masked_fill(~mine, torch.nan)
        columns["answer"] = torch.where(index < length, columns["answer"], -1)
    columns |= {"doc": torch.where(index < length, 0, -1).int(), "row": torch.arange(len(spans), device=device)}
    if "reach" in batch:  # an index into the row
        columns["reach"] = torch.where(index < length, columns["reach"] - start, index)
    return Batch(columns, {term: alone(weight) for term, weight in batch.weight.items()})


def sampled_as_trained(
    model: Model, objective: Objective, prompt: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]
) -> float:
    """Law 5: the sampler's log-probabilities against those of the training path, with the objective's own reach."""
    device = next(model.parameters()).device
    token = torch.tensor([[*prompt, *tokens]], device=device)
    index = torch.arange(token.shape[1], device=device)[None]
    document = {"token": token, "position": index, "doc": torch.zeros_like(index), "trained": index >= len(prompt)}
    alone = {"row": torch.zeros(1, dtype=torch.int64, device=device), "value": torch.zeros(1, device=device)}
    batch = Batch({**document, **alone})
    if objective.judged:
        one = torch.zeros(1, 1, dtype=torch.int64, device=device)
        batch = batch.with_(answer=torch.where(index < len(prompt) - 1, -1, 0), of=one, score=one.float(), who=one)
        batch = batch.with_(order=batch.answer + 1)
    if objective.acts:
        batch = toy_acted(batch)
    teacher = objective.taught_by()  # which has no say in who sees whom
    if teacher and not teacher.top:
        batch = batch.with_(reference=torch.zeros(*token.shape, device=device))
    elif teacher:
        silent = torch.zeros(*token.shape, teacher.top, device=device)
        batch = batch.with_(teacher_token=silent.long(), teacher_logprob=silent)
    with torch.no_grad():
        ready: Any = objective.prepare(model, batch, Rng(0, 0))
        where = (index >= len(prompt) - 1) & (index < token.shape[1] - 1)
        found = model.logprob(model.hidden(ready), token.roll(-1, 1), where.float())[where]
    return float((found.cpu() - torch.tensor(logprobs)).abs().max())


def unmasked_as_trained(
    model: Model, objective: Diffusion, prompt: Sequence[int], drafts: Iterable[Draft], longest: int
) -> float:
    """Law 5 of a model that unmasks: what each pass said of the tokens it kept, against the training path on its input.

    ``drafts`` are the answer after each pass, the last one with all ``logprobs``; ``longest`` is its number of tokens.
    """
    device = next(model.parameters()).device
    index = torch.arange(len(prompt) + longest, device=device)[None]
    document = {"position": index, "doc": torch.zeros_like(index), "reach": torch.full_like(index, index.shape[1] - 1)}
    before, found, last = [objective.vocabulary.mask] * longest, {}, None
    for last in drafts:
        token = torch.tensor([[*prompt, *before]], device=device)
        clean = torch.tensor([[*prompt, *last.canvas]], device=device)
        hidden = (token == objective.vocabulary.mask).float()
        kept = [place for place in range(longest) if before[place] != last.canvas[place]]
        target, factor = (c.roll(-1, 1) if objective.shift else c for c in (clean, hidden))
        with torch.no_grad():
            loss = objective.loss(model, Batch({**document, "token": token, "target": target, "factor": factor}))
        said = loss["token"].roll(1, 1) if objective.shift else loss["token"]
        found |= {place: -float(said[0, len(prompt) + place]) for place in kept}
        before = list(last.canvas)
    assert last is not None
    return max(abs(found[place] - logprob) for place, logprob in enumerate(last.logprobs))


def _once(batch: Batch) -> Iterator[tuple[Batch, int]]:
    yield batch, 1


def _spans(doc: Tensor) -> Iterator[slice]:
    """The unbroken runs of one row's documents, padding left out."""
    numbers, lengths = torch.unique_consecutive(doc, return_counts=True)
    start = 0
    for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True):
        if number >= 0:
            yield slice(start, start + length)
        start += length
