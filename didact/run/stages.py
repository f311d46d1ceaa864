"""What each stage does: its specification in, an artifact out. One function a kind."""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from didact import measure as measures
from didact.data.pieces import Counts, Pieces, cut, filled, total
from didact.data.sets import subset, tokenized
from didact.data.settings import Data
from didact.data.source import examples
from didact.data.stream import TokenStream
from didact.engine.durable import on_disk
from didact.engine.evaluate import Score, evaluate, scorer
from didact.engine.mesh import Mesh
from didact.engine.metrics import Metrics, read
from didact.engine.precision import pick_dtype
from didact.engine.train import Loop, Place, Source, length
from didact.errors import DataProblem, UsageProblem
from didact.model import attention, heads
from didact.model.encoder import positions
from didact.model.extend import fit
from didact.model.load import load
from didact.model.model import Model
from didact.model.save import save_model
from didact.model.scratch import build
from didact.model.settings import Scratch
from didact.model.tune import Tuned, apply
from didact.objective import resolve
from didact.objective.base import Objective, Teacher
from didact.recipe.schema import Corpus, Evaluate, Learning, Links, Tokenizer
from didact.rollout.diffusion import writer
from didact.rollout.settings import Sampling
from didact.run import forgetting
from didact.run.folder import Artifact, StageFolder
from didact.run.teach import taught
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer


@dataclass(frozen=True)
class Ground:
    """What a stage stands on: where the model is now, what earlier stages left, this process, and a voice."""

    model: Path | None
    scratch: Scratch | None
    tokenizer: Path | None
    base: Path | None
    outputs: Mapping[str, Path]
    cache: Path
    mesh: Mesh
    say: Callable[[str], None]
    recipe: str = ""
    parent: str = ""

    def tokens(self) -> PreTrainedTokenizerFast:
        """The tokenizer in force, read afresh, since a stage may add tokens to it."""
        folder = self.tokenizer or self.model
        if folder is None:
            raise UsageProblem("a model from scratch needs a tokenizer", remedy="put a tokenizer stage before it")
        return tokenizers.load(folder)

    def renderer(self, new: Sequence[str] = ()) -> Renderer:
        """The renderer of the tokenizer in force, with the tokens that a stage will add."""
        tokenizer = self.tokens()
        tokenizer.add_tokens(list(new))
        return Renderer(tokenizer)


def corpus(stage: Corpus, ground: Ground, folder: StageFolder) -> Artifact:
    """Builds a domain's files."""
    from didact.data import domain

    provenance: dict[str, Any] = {}
    if ground.mesh.main:
        with on_disk(folder.path, "make the corpus"):
            provenance = domain.build(stage.domain, folder.path, stage.holdout, stage.seed, ground.say, stage.only)
    ground.mesh.barrier()
    outputs = {name: folder.path / f"{name}.jsonl" for name in stage.outputs}
    return Artifact(outputs={name: path for name, path in outputs.items() if path.exists()}, facts=provenance)


def tokenizer(stage: Tokenizer, ground: Ground, folder: StageFolder) -> Artifact:
    """Trains a tokenizer on the text of the data."""
    from didact.data.corpus import trained_text

    where = folder.path / "tokenizer"
    if ground.mesh.main:
        sources = examples(stage.data, ground.outputs, stage.seed)
        trained = tokenizers.train((trained_text(e) for found in sources for e in found), stage.vocab_size)
        with on_disk(where, "write the tokenizer"):
            tokenizers.save(trained, where, 1 << 20)
    ground.mesh.barrier()
    return Artifact(tokenizer=where, facts={"vocab_size": stage.vocab_size})


def links(stage: Links, ground: Ground, folder: StageFolder) -> Artifact:
    """Draws pairs of linked documents."""
    from didact.data.links.build import build

    facts: dict[str, Any] = {}
    if ground.mesh.main:
        with on_disk(folder.path, "make the pairs"):
            facts = build(examples(stage.data, ground.outputs, stage.seed), stage, stage.seed, folder.path, ground.say)
    ground.mesh.barrier()
    return Artifact(outputs={name: folder.path / f"{name}.jsonl" for name in stage.outputs}, facts=facts)


def learn(stage: Learning, ground: Ground, folder: StageFolder) -> Artifact:
    """Trains the model on the stage's tasks and saves it as a standard checkpoint folder."""
    began = time.monotonic()
    objectives = bound(stage, ground.tokens())
    tokenizer = tokenizer_for(objectives, ground)
    model, tuned = _prepared(stage, ground, tokenizer, objectives)
    renderer = Renderer(tokenizer, endings(model.net))  # after tuning, which may have added tokens
    objectives = bound(stage, tokenizer, model.served)
    sources, counts, steps = _sources(stage, ground, renderer, objectives)
    heldout = _parts(stage.heldout, ground, renderer, stage.seed, stage.context)[0] if stage.heldout else None
    before = _held_out(model, stage, heldout, ground, folder, Place())
    general = _general(stage, ground, renderer, model)
    knew = None if general is None else _knew(model, stage, general, ground)
    model.served = {name: value for source in sources for name, value in source.objective.served().items()}
    said: list[str] = []
    loop = Loop(model, sources, stage, steps, folder.path, ground.mesh, both(ground.say, said.append), stage.name)
    done = loop.run()
    after = _held_out(model, stage, heldout, ground, folder, loop.place)
    knows = None if general is None else evaluate(model, scorer(model), general, stage.context, ground.mesh)
    _save(model, stage, ground, renderer, folder)
    if knew and knows:
        ground.say(
            f"{stage.name}: general text {knew.bits_per_byte:.3f} -> {knows.bits_per_byte:.3f} bits per byte"
            " (forgetting: false leaves this out)"
        )
    facts = {
        "steps": done.steps,
        "tokens": done.tokens,
        "seconds": done.reading.seconds,
        "wall_seconds": time.monotonic() - began,
        "tokens_per_second": done.reading.tokens_per_second,
        "energy_wh": done.reading.energy_wh,
        "energy_source": done.reading.energy_source,
        "memory": done.reading.memory,
        "share": done.reading.share,
        "said": said,
        "loss": done.loss,
        "counts": counts.numbers(),
        "trainable": tuned.count,
        "parameters": tuned.total,
        "writes": not model.encoder,
        "processes": ground.mesh.size,
        "heldout": _before_after(before, after),
        "general": _before_after(knew, knows),
    }
    return Artifact(model=folder.model, facts=facts)


def evaluate_stage(stage: Evaluate, ground: Ground, folder: StageFolder) -> Artifact:
    """Bits per byte of each set and answers to the samples, beside the base's."""
    if ground.model is None:
        raise UsageProblem("there is no model to evaluate yet", where=stage.name, remedy="train one before this stage")
    names = ", ".join([*stage.data, *stage.measures]) or "answers"
    ground.say(f"measuring {names} after")
    after, said_after, taken_after = _measure(stage, ground.model, ground)
    before, said_before, taken_before = {}, [], {}
    if stage.against == "base" and ground.base is not None:
        ground.say(f"measuring {names} before")
        before, said_before, taken_before = _measure(stage, ground.base, ground)
    breaches = [
        f"{name}: {after[name].bits_per_byte:.4f} bits per byte, the gate allows {ceiling}"
        for name, ceiling in stage.gate.items()
        if not after[name].bits_per_byte <= ceiling  # a score that is no number passes no gate
    ]
    facts = {
        "evaluations": {name: _before_after(before.get(name), score) for name, score in after.items()},
        "samples": [
            {"prompt": prompt, "before": said_before[i] if said_before else None, "after": said_after[i]}
            for i, prompt in enumerate(stage.samples)
        ],
        "measures": {
            name: {**taken, "before": taken_before[name]["value"]} if taken_before else taken
            for name, taken in taken_after.items()
        },
        "breaches": breaches,
    }
    return Artifact(facts=facts)


def bound(
    stage: Learning, tokenizer: PreTrainedTokenizerFast, served: Mapping[str, Any] | None = None
) -> list[Objective]:
    """The objectives of the stage's tasks, told of the tokens they are to learn and how the model is read so far."""
    known = tokenizers.vocabulary(tokenizer)
    found = [resolve(task.objective.name, task.objective.options) for task in stage.task_list]
    return [objective.bind(known).told(served or {}) for objective in found]


def tokenizer_for(objectives: Sequence[Objective], ground: Ground) -> PreTrainedTokenizerFast:
    """The tokenizer in force, with a mask token where one is needed."""
    tokenizer = ground.tokens()
    return tokenizers.with_mask(tokenizer) if any(objective.needs_mask for objective in objectives) else tokenizer


def _prepared(
    stage: Learning, ground: Ground, tokenizer: PreTrainedTokenizerFast, objectives: Sequence[Objective]
) -> tuple[Model, Tuned]:
    """The model in its training type, tuned, sharded, in training mode."""
    mesh = ground.mesh
    dtype = pick_dtype(stage.precision, mesh.device)
    stored = dtype if mesh.size == 1 else torch.float32  # FSDP2 keeps fp32 shards and gathers them in dtype
    net, tuned = _net(stage, ground, tokenizer, stored)
    if stage.activation_checkpointing:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    model = Model(net)
    for objective in objectives:
        model.add_heads(objective.heads)
    if ground.model is not None:
        heads.restore(model, ground.model)
    model.to(mesh.device)
    model.check()
    model.train()
    mesh.shard(model, model.layers, dtype)
    ground.say(f"{stage.name}: {tuned.count:,} of {tuned.total:,} parameters train, {str(dtype).split('.')[1]}")
    if tuned.note:
        ground.say(f"{stage.name}: {tuned.note}")
    return model, tuned


def _net(
    stage: Learning, ground: Ground, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype
) -> tuple[PreTrainedModel, Tuned]:
    """The network the stage starts from, on the CPU, with what is trainable marked; tuning may extend ``tokenizer``."""
    attention.register()
    if ground.model is not None:
        net = load(ground.model, dtype)
        check_vocabulary(net, ground.tokens(), ground.model)
    else:
        assert ground.scratch is not None
        net = build(ground.scratch, tokenizer, stage.context, stage.seed, dtype)
    if stage.context > positions(net.config):
        raise UsageProblem(
            f"context {stage.context} is more than the {positions(net.config)} positions of the model",
            where=stage.name,
            remedy=f"set context to {positions(net.config)} or less",
        )
    fit(net, max(tokenizer.get_vocab().values()) + 1)  # for a mask token, which the tokenizer may have been given
    return net, apply(net, stage.tune, tokenizer, stage.seed)


def opened(where: Path, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Model, Renderer]:
    """A finished model on a device, in ``dtype`` or the device's own, and what reads text for it."""
    attention.register()
    net = load(where, dtype or pick_dtype("auto", device))
    renderer = Renderer(tokenizers.load(where), endings(net))
    check_vocabulary(net, renderer.tokenizer, where)
    model = Model(net)
    heads.restore(model, where)
    return model.to(device), renderer


def check_vocabulary(net: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, where: Path) -> None:
    """Raises DataProblem where the tokenizer has ids beyond the model's table: the two belong to different models."""
    table: Any = net.get_input_embeddings()
    rows, size = table.weight.shape[0], max(tokenizer.get_vocab().values()) + 1
    if size > rows:
        raise DataProblem(
            f"the tokenizer has {size:,} tokens, the model's table {rows:,} rows",
            where=str(where),
            remedy="use the tokenizer files the model was published with",
        )


def endings(net: PreTrainedModel) -> list[int]:
    """The ids with which the model's own generation settings end."""
    ends = net.generation_config.eos_token_id if net.can_generate() and net.generation_config else None
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _held_out(
    model: Model, stage: Learning, parts: Sequence[Pieces] | None, ground: Ground, folder: StageFolder, place: Place
) -> Score | None:
    """Scores the held-out data and records it once in the stage's metrics, also when a stopped run comes here again."""
    if parts is None:
        return None
    score = evaluate(model, scorer(model), parts, stage.context, ground.mesh)
    path = folder.path / "metrics.jsonl"
    known = path.exists() and any(line["step"] == place.step and "held_out" in line for line in read(path))
    if ground.mesh.main and not known:
        with Metrics(path) as metrics:
            metrics.write(place.step, held_out=score.loss, trained_tokens=place.trained)
    return score


def _general(stage: Learning, ground: Ground, renderer: Renderer, model: Model) -> list[Pieces] | None:
    """The text that shows what is forgotten; None where it is not asked for, or the model writes none."""
    if not stage.forgetting or model.encoder:
        return None
    if stage.general:
        return _parts(stage.general, ground, renderer, stage.seed, stage.context)[0]
    return cut([forgetting.general_text(renderer)], stage.context, "window")[0]


def _knew(model: Model, stage: Learning, general: Sequence[Pieces], ground: Ground) -> Score:
    """The score of the model the stage starts from, taken once for all stages that start from it."""

    def score() -> Score:
        return evaluate(model, scorer(model), general, stage.context, ground.mesh)

    if ground.mesh.size > 1:
        return score()
    token = np.concatenate([part.corpus.token for part in general])
    parts = [ground.parent, str(stage.context), str(stage.tune.meanings), str(model.net.dtype), stage.precision]
    return forgetting.remembered(ground.cache, [*parts, hashlib.sha256(token.tobytes()).hexdigest()], score)


def _save(model: Model, stage: Learning, ground: Ground, renderer: Renderer, folder: StageFolder) -> None:
    """Leaves the model as a standard folder; shards are gathered into a network that is whole again."""
    net, tokenizer = model.net, renderer.tokenizer
    beside = ground.mesh.gathered(model.heads)
    if ground.mesh.size > 1:
        state = ground.mesh.gathered(net)
        if ground.mesh.main:
            dtype = pick_dtype(stage.precision, ground.mesh.device)
            tokenizer = tokenizer_for(bound(stage, ground.tokens()), ground)
            net = _net(stage, ground, tokenizer, dtype)[0]
            net.load_state_dict({name: value.to(dtype) for name, value in state.items()})
            Model(net).served = model.served
    if ground.mesh.main:
        template = renderer.template if isinstance(renderer.template, str) and net.can_generate() else None
        extra = {"recipe.yaml": ground.recipe}
        stops = renderer.stops
        save_model(net, tokenizer, folder.model, stops=stops, template=template, heads=beside, extra_files=extra)
    ground.mesh.barrier()


def _sources(
    stage: Learning, ground: Ground, renderer: Renderer, objectives: Sequence[Objective]
) -> tuple[list[Source], Counts, int]:
    """The tasks' streams; the stage is as long as its first task's data says."""
    sources, all_counts, steps = [], [], 0
    for task, objective in zip(stage.task_list, objectives, strict=True):
        reading = renderer.embedding(objective.served())
        parts, counts = _parts(
            task.data,
            ground,
            reading,
            stage.seed,
            stage.context,
            overlong=stage.overlong,
            joined=objective.joined,
            teacher=objective.taught_by(),
            fill=objective.filled(),
        )
        stream = TokenStream(
            parts,
            stage.context,
            stage.batch_size,
            stage.seed,
            pack=stage.pack,
            shuffle=stage.shuffle,
            rank=ground.mesh.rank,
            world=ground.mesh.size,
        )
        for line in counts.lines():
            ground.say(f"{stage.name}: {line}")
        steps = steps or length(stage, stream)
        sources.append(Source(task.name, objective, stream, task))
        all_counts.append(counts)
    return sources, total(all_counts), steps


def _parts(
    data: Data,
    ground: Ground,
    renderer: Renderer,
    seed: int,
    context: int,
    limit: int | None = None,
    overlong: Literal["drop", "window"] = "window",
    joined: bool = False,
    teacher: Teacher | None = None,
    fill: int = 1,
) -> tuple[list[Pieces], Counts]:
    if not ground.mesh.main:
        ground.mesh.barrier()  # the first process fills the cache
    corpora = tokenized(data, ground.outputs, seed, renderer, ground.cache / "tokens")
    if teacher:
        corpora = taught(teacher, data, corpora, ground, renderer, seed, context)
    if ground.mesh.main:
        ground.mesh.barrier()
    if limit:
        corpora = [subset(c, limit, seed) for c in corpora]
    if fill > 1:
        corpora = [filled(c, fill) for c in corpora]
    return cut(corpora, context, overlong, ", ".join(source.path for source in data.sources), joined)


def _measure(
    stage: Evaluate, where: Path, ground: Ground
) -> tuple[dict[str, Score], list[str], dict[str, dict[str, Any]]]:
    """Scores, answers and measures of one model with its own tokenizer: bits per byte compare across tokenizers."""
    model, renderer = opened(where, ground.mesh.device)
    model.check()
    context = min(stage.context, positions(model.net.config))
    if stage.data and context < stage.context:
        ground.say(f"{stage.name}: the model has {context} positions, so it reads windows of {context} tokens")
    if stage.data and "text_diffusion" in model.served:
        ground.say(f"{stage.name}: bits per byte of a diffusion model are an upper bound")
    sets = {
        name: _parts(data, ground, renderer, stage.seed, context, stage.limit)[0] for name, data in stage.data.items()
    }
    scores = {name: evaluate(model, scorer(model), parts, context, ground.mesh) for name, parts in sets.items()}
    prompts = [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in stage.samples]
    greedy = Sampling(temperature=0, max_new_tokens=stage.max_new_tokens)
    answers = writer(model, renderer.decode, renderer.stops).generate(prompts, greedy)
    return scores, [answer.text for answer in answers], _taken(stage, model.eval(), renderer, ground)


def _taken(stage: Evaluate, model: Model, renderer: Renderer, ground: Ground) -> dict[str, dict[str, Any]]:
    """Each measure's value, unit and better direction."""
    taken = {}
    for name, spec in stage.measures.items():
        measure = measures.resolve(spec.kind, spec.options)
        found = [example for source in examples(spec.data, ground.outputs, stage.seed) for example in source]
        if spec.limit and spec.limit < len(found):
            found = random.Random(stage.seed).sample(found, spec.limit)
        with torch.no_grad():
            value = measure(measures.Subject(model, renderer, ground.mesh, stage.seed), found)
        taken[name] = {"value": value, "unit": measure.unit, "better": measure.better}
    return taken


def both(*voices: Callable[[str], None]) -> Callable[[str], None]:
    """One voice that speaks with all of them."""

    def speak(line: str) -> None:
        for voice in voices:
            voice(line)

    return speak


def _before_after(before: Score | None, after: Score | None) -> dict[str, float] | None:
    if after is None:
        return None
    numbers = {"after": after.bits_per_byte, "tokens": after.tokens, "bytes": after.text_bytes}
    return numbers if before is None else {"before": before.bits_per_byte, **numbers}
