"""Didact's side: the step, optimizer and sampler that ``didact run`` uses, prepared as its stages prepare them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.case import Job, Measured
from benchmarks.clock import Clock
from benchmarks.hyper import HYPER
from didact.batch import Batch
from didact.data.corpus import in_memory
from didact.data.example import Texts
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.optimizer import Optimizer
from didact.engine.precision import compiled, compiles, pick_dtype
from didact.engine.settings import Training
from didact.engine.step import Task, take_step
from didact.model import attention, lora
from didact.model.embed import Embedder
from didact.model.load import load
from didact.model.model import Model
from didact.model.settings import Tune
from didact.model.tune import apply
from didact.objective import resolve
from didact.objective.base import Objective
from didact.objective.contrast import Contrast
from didact.rng import Rng
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer


def packed(documents: list) -> Batch:
    """All documents of a step in one row."""
    lengths = torch.tensor([len(tokens) for tokens, _ in documents])
    position = torch.cat([torch.arange(len(tokens)) for tokens, _ in documents])
    prompt = torch.tensor([prompt for _, prompt in documents]).repeat_interleave(lengths)
    return Batch(
        {
            "token": torch.tensor([token for tokens, _ in documents for token in tokens])[None],
            "doc": torch.arange(len(documents), dtype=torch.int32).repeat_interleave(lengths)[None],
            "position": position[None],
            "trained": (position >= prompt)[None],
            "row": torch.zeros(1, dtype=torch.int64),
        }
    )


def rows(documents: list) -> Batch:
    """A row for each document, all of one length and trained whole."""
    token = torch.tensor([tokens for tokens, _ in documents])
    return Batch(
        {
            "token": token,
            "doc": torch.zeros_like(token, dtype=torch.int32),
            "position": torch.arange(token.shape[1]).expand_as(token).clone(),
            "trained": torch.ones_like(token, dtype=torch.bool),
            "row": torch.arange(len(token)),
        }
    )


def opened(job: Job) -> tuple[Model, Training]:
    """The model as a stage trains it, whole or an adapter; ``options``: ``precision``, ``compile``, ``rate``."""
    settings = Training(
        precision=job.options["precision"], compile=job.options["compile"], learning_rate=job.options["rate"], **HYPER
    )
    attention.register()
    net = load(job.inputs.model, pick_dtype(settings.precision, torch.device("cpu")))
    if "adapter" in job.inputs.extra:
        lora.load_adapter(net, Path(job.inputs.extra["adapter"]))
    else:
        apply(net, Tune())
    model = Model(net)
    model.check()
    return model.train(), settings


def train(job: Job) -> Measured:
    """The options of ``opened``, ``objective`` and ``rows`` (a document each, not packed)."""
    model, settings = opened(job)
    model = compiled(model, compiles(settings, len(job.inputs.steps)))
    return loop(model, settings, Task("bench", _objective(job), _stream(job)), len(job.inputs.steps), micro_rows=64)


def _stream(job: Job) -> Iterator[tuple[Batch, int]]:
    batch = rows if job.options["rows"] else packed
    for number, documents in enumerate(job.inputs.steps):
        yield batch(documents), number


def _objective(job: Job) -> Objective:
    objective = resolve(job.options["objective"], {})
    if not objective.needs_mask:
        return objective
    return objective.bind(tokenizers.vocabulary(tokenizers.load(Path(job.inputs.model))))


def loop(
    model: Model, settings: Training, task: Task, steps: int, micro_rows: int, clock: Clock | None = None, each: int = 1
) -> Measured:
    """A lap every ``each`` updates, of which the loss is the mean."""
    optimizer, mesh, clock = Optimizer(model, settings), Mesh(torch.device("cpu")), clock or Clock()
    losses, tokens = [], []
    clock.start()
    for number in range(steps):
        found = []
        for update in range(each):
            with clock.part("gradient"):
                found.append(take_step(model, [task], mesh, Rng(0, number * each + update), micro_rows))
            with clock.part("update"):
                optimizer.clip(settings.grad_clip)
                optimizer.step(1.0)
                optimizer.zero()
        losses.append(sum(step.total([task]) for step in found) / each)
        tokens.append(sum(step.tokens for step in found))
        clock.lap()
    return Measured(clock.laps, tokens, losses, spent=clock.spent)


def generate(job: Job) -> Measured:
    """Greedy, to the full number of new tokens: no id ends a completion."""
    from didact.rollout.sampler import Sampler
    from didact.rollout.settings import Sampling
    from didact.text.render import Renderer

    attention.register()
    model = Model(load(job.inputs.model, torch.bfloat16))
    model.check()
    renderer = Renderer(tokenizers.load(Path(job.inputs.model)))
    sampler = Sampler(model, renderer.decode, stops=())
    sampling = Sampling(temperature=0, max_new_tokens=job.inputs.extra["new_tokens"])
    clock, tokens, generated = Clock(), [], []
    for prompts in job.inputs.steps:
        answers = sampler.generate(prompts, sampling)
        clock.lap()
        tokens.append(sum(len(answer.tokens) for answer in answers))
        generated += [answer.tokens for answer in answers]
    return Measured(clock.laps, tokens, generated=generated)


def contrast(job: Job) -> Measured:
    """``options``: ``chunk`` (pairs read at once), ``precision``, ``compile``, ``rate``; tokenized before."""
    model, settings = opened(job)
    objective = Contrast().told(model.served)
    renderer = Renderer(tokenizers.load(Path(job.inputs.model))).embedding(objective.served())
    pairs = [Texts("", tuple(pair), ("query", "document")) for step in job.inputs.steps for pair in step]
    parts = cut([in_memory(pairs, renderer)], model.served["embedding"]["length"], "window")[0]
    stream = TokenStream(parts, 0, len(job.inputs.steps[0]), 0, shuffle=False)
    model = compiled(model, compiles(settings, len(job.inputs.steps)))
    task = Task("bench", objective, stream.start(0))
    return loop(model, settings, task, len(job.inputs.steps), job.options["chunk"])


def encode(job: Job) -> Measured:
    """Texts to vectors, tokenizing included."""
    attention.register()
    model = Model(load(job.inputs.model, getattr(torch, job.options["weights"])))
    renderer = Renderer(tokenizers.load(Path(job.inputs.model)))
    embed = Embedder.of(model, renderer)
    clock, tokens, alike = Clock(), [], []
    for texts in job.inputs.steps:
        vectors = embed(texts, "document")
        clock.lap()
        longest = model.served["embedding"]["length"]
        tokens.append(sum(len(one.tokens) for one in renderer.embeddings(texts, "document", longest)))
        alike.append(float((vectors @ vectors[0]).mean()))
    return Measured(clock.laps, tokens, alike)
