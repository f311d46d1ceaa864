"""A stage of gradient descent: data and model in, a standard checkpoint folder out."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from didact.data.pieces import Counts, Pieces, cut, total
from didact.data.stream import TokenStream
from didact.data.words import listed
from didact.engine.evaluate import Score, evaluate, scorer
from didact.engine.metrics import Metrics, read
from didact.engine.precision import Numerics, compiles, pick_dtype
from didact.engine.step import Source
from didact.engine.train import Loop, Place, Trained, length
from didact.errors import UsageProblem
from didact.model import attention, heads
from didact.model.encoder import positions
from didact.model.extend import fit
from didact.model.load import load
from didact.model.model import Model
from didact.model.save import save_model
from didact.model.scratch import build
from didact.model.tune import Tuned, apply
from didact.objective import resolve
from didact.objective.base import Objective
from didact.objective.policy import Policy
from didact.recipe.learning import Learning
from didact.rollout.cast import without_dropout
from didact.run import forgetting
from didact.run.act import acting, critic
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground, before_after, check_vocabulary, endings, parts_of
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer

Weigh = Callable[[Sequence[Pieces]], list[Pieces]]


def learn(stage: Learning, ground: Ground, folder: StageFolder, weigh: Weigh = list) -> Artifact:
    """Trains the model on the stage's tasks and saves it as a standard checkpoint folder.

    ``weigh`` says of judged data how much each judgement counts.
    """
    began = time.monotonic()
    objectives = bound(stage, ground.tokens())
    tokenizer = tokenizer_for(objectives, ground)
    model, tuned = prepared(stage, ground, tokenizer, objectives)
    renderer = Renderer(tokenizer, endings(model.net))  # after tuning, which may have added tokens
    objectives = bound(stage, tokenizer, model.served)
    told = served(objectives)
    if model.encoder and not told.get("embedding", {}).get("bidirectional", True):
        what = "an encoder reads in both directions, and bidirectional is false"
        raise UsageProblem(what, where=stage.name, remedy="leave it out")
    sources, counts, steps = _sources(stage, ground, renderer, objectives, weigh, model, folder)
    heldout = parts_of(stage.heldout, ground, renderer, stage.seed, stage.context)[0] if stage.heldout else None
    before = _held_out(model, stage, heldout, ground, folder, Place())
    general = _general(stage, ground, renderer, model)
    knew = None if general is None else _knew(model, stage, general, ground)
    if lost := sorted(model.served.keys() - told.keys() - {"writes"}):
        ground.say(f"{stage.name}: nothing here keeps up what the model could: {listed(lost)}")
    model.served = told
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
        **training_facts(done, counts, tuned, ground, began, said),
        "writes": model.writes,
        "heldout": before_after(before, after),
        "general": before_after(knew, knows),
    }
    return Artifact(model=folder.model, facts=facts)


def training_facts(
    done: Trained, counts: Counts, tuned: Tuned, ground: Ground, began: float, said: Sequence[str]
) -> dict[str, Any]:
    """What a report shows of a run of the loop; ``began`` is the stage's start on the monotonic clock."""
    return {
        "steps": done.steps,
        "tokens": done.tokens,
        "seconds": done.reading.seconds,
        "wall_seconds": time.monotonic() - began,
        "tokens_per_second": done.reading.tokens_per_second,
        "energy_wh": done.reading.energy_wh,
        "energy_source": done.reading.energy_source,
        "memory": done.reading.memory,
        "share": done.reading.share,
        "said": list(said),
        "loss": done.loss,
        "stopped": done.stopped,
        "counts": counts.numbers(),
        "trainable": tuned.count,
        "parameters": tuned.total,
        "processes": ground.mesh.size,
    }


def bound(
    stage: Learning, tokenizer: PreTrainedTokenizerFast, served: Mapping[str, Any] | None = None
) -> list[Objective]:
    """The objectives of the stage's tasks, told of the tokens they are to learn and how the model is read so far."""
    known = tokenizers.vocabulary(tokenizer)
    found = [resolve(task.objective.name, task.objective.options) for task in stage.task_list]
    return [objective.bind(known).told(served or {}) for objective in found]


def served(objectives: Sequence[Objective]) -> dict[str, Any]:
    """How a model that learns ``objectives`` is to be read; ``writes: false`` where none of them teaches that."""
    told = {name: value for objective in objectives for name, value in objective.served().items()}
    writes = "text_diffusion" in told or any(objective.generates for objective in objectives)
    return told if writes else told | {"writes": False}


def tokenizer_for(objectives: Sequence[Objective], ground: Ground) -> PreTrainedTokenizerFast:
    """The tokenizer in force, with a mask token where one is needed."""
    tokenizer = ground.tokens()
    return tokenizers.with_mask(tokenizer) if any(objective.needs_mask for objective in objectives) else tokenizer


def prepared(
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
        model.add_heads(objective.heads, stage.seed)
    if ground.model is not None:
        heads.restore(model, ground.model)
    if expects := critic(stage, ground, tokenizer, stored):
        model.add_critic(expects)
        ground.say(f"{stage.name}: the critic begins as the reward model, a network of its own")
    if any(objective.judged for objective in objectives):
        without_dropout(model)
    model.to(mesh.device)
    model.check()
    model.train()
    if model.critic:
        mesh.shard(model.critic, model.critic.layers, dtype)
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
        return parts_of(stage.general, ground, renderer, stage.seed, stage.context)[0]
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
    """Leaves the model as a standard folder."""
    beside = ground.mesh.gathered(model.heads)
    net, tokenizer = whole(model, stage, ground, renderer)
    if ground.mesh.main:
        template = renderer.template if isinstance(renderer.template, str) and net.can_generate() else None
        extra = {"recipe.yaml": ground.recipe}
        stops = renderer.stops
        save_model(net, tokenizer, folder.model, stops=stops, template=template, heads=beside, extra_files=extra)
    ground.mesh.barrier()


def whole(
    model: Model, stage: Learning, ground: Ground, renderer: Renderer
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The network with its tokenizer; the first process's is whole again where shards were trained."""
    net, tokenizer = model.net, renderer.tokenizer
    if ground.mesh.size > 1:
        state = ground.mesh.gathered(net)
        if ground.mesh.main:
            dtype = pick_dtype(stage.precision, ground.mesh.device)
            tokenizer = tokenizer_for(bound(stage, ground.tokens()), ground)
            net = _net(stage, ground, tokenizer, dtype)[0]
            net.load_state_dict({name: value.to(dtype) for name, value in state.items()})
            Model(net).served = model.served
    return net, tokenizer


def _begun(stage: Learning, ground: Ground, objectives: Sequence[Objective]) -> Model:
    """The model as the stage found it, whole: what one in training is compared with."""
    dtype, tokenizer = pick_dtype(stage.precision, ground.mesh.device), tokenizer_for(objectives, ground)
    model = Model(_net(stage, ground, tokenizer, dtype)[0])
    for objective in objectives:
        model.add_heads(objective.heads)
    if expects := critic(stage, ground, tokenizer, dtype):
        model.add_critic(expects)
    return model


def _sources(
    stage: Learning,
    ground: Ground,
    renderer: Renderer,
    objectives: Sequence[Objective],
    weigh: Weigh,
    model: Model,
    folder: StageFolder,
) -> tuple[list[Source], Counts, int]:
    """The tasks' streams; the stage is as long as its first task's data says."""
    sources, all_counts, steps = [], [], 0
    for task, objective in zip(stage.task_list, objectives, strict=True):
        if isinstance(objective, Policy):
            begun = partial(_begun, stage, ground, objectives)
            source, count, long = acting(stage, task, objective, ground, renderer, model, begun, folder)
            sources.append(source)
            all_counts.append(count)
            steps = steps or long
            continue
        reading = renderer.embedding(objective.served())
        how = (ground, reading, stage.seed, stage.context)
        read = partial(parts_of, task.data, *how, overlong=stage.overlong, objective=objective)
        if objective.taught_by():
            plain = read(numerics=None)[0]  # says where nothing fits, before a reference reads
            long = steps or length(stage, _stream(stage, ground, plain))
            read = partial(read, numerics=Numerics(stage.precision, compiles(stage, long)))
        parts, counts = read()
        if objective.judged:
            parts = weigh(parts)
            objective, line = objective.counted(*_thumbs(parts))
            ground.say(f"{stage.name}: {line}") if line else None
        stream = _stream(stage, ground, parts)
        for line in counts.lines():
            ground.say(f"{stage.name}: {line}")
        steps = steps or length(stage, stream)
        sources.append(Source(task.name, objective, stream, task))
        all_counts.append(counts)
    return sources, total(all_counts), steps


def _stream(stage: Learning, ground: Ground, parts: Sequence[Pieces]) -> TokenStream:
    """This process's share of the rows."""
    how = {"pack": stage.pack, "shuffle": stage.shuffle, "rank": ground.mesh.rank, "world": ground.mesh.size}
    return TokenStream(parts, stage.context, stage.batch_size, stage.seed, **how)


def both(*voices: Callable[[str], None]) -> Callable[[str], None]:
    """One voice that speaks with all of them."""

    def speak(line: str) -> None:
        for voice in voices:
            voice(line)

    return speak


def _thumbs(parts: Sequence[Pieces]) -> tuple[int, int]:
    """How many of the answers have a score above 0, and how many another; as often as an epoch reads them."""
    liked = others = 0.0
    for part in parts:
        known = part.corpus.judged
        assert known is not None
        assert part.example is not None
        score = np.concatenate([known.score[:0], *(known.score[known.of(int(i))] for i in part.example)])
        liked += part.corpus.weight * float((score > 0).sum())
        others += part.corpus.weight * float((score <= 0).sum())
    return round(liked), round(others)
