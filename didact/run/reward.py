"""The stage ``reward``: judged answers in, a reward model out, measured on prompts and people it never learned from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from didact.data.answers import Judged
from didact.data.aside import Aside, judged, prompt_ids, set_aside
from didact.data.corpus import Corpus
from didact.data.pieces import Counts, Pieces, cut
from didact.data.sets import subset, tokenized
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.step import Source
from didact.engine.train import Loop, Trained, length
from didact.errors import DataProblem, UsageProblem
from didact.model.classifier import check_classifier, save_classifier, save_member
from didact.model.model import Model
from didact.model.tune import Tuned
from didact.objective.reward import Reward, endings
from didact.objective.tokens import causal_reach
from didact.recipe.rewarding import RewardModel
from didact.rollout.reward import trust
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground
from didact.run.ground import endings as stops_of
from didact.run.learn import both, bound, prepared, tokenizer_for, training_facts, whole
from didact.text.render import Renderer

REFERENCE = 2000  # examples on whose answers the rewards have mean 0 and deviation 1
RIDGE = 1e-3  # of the mean variance of a hidden number
ROWS = 8


def reward(stage: RewardModel, ground: Ground, folder: StageFolder) -> Artifact:
    """Trains the members of the ensemble, one after the other; the first, trained last, is the model that has them."""
    began, said = time.monotonic(), list[str]()
    ground = replace(ground, say=both(ground.say, said.append))
    aside = _aside(stage, ground)
    kept = {f"member-{n}": folder.path / "checkpoints" / f"member-{n}" for n in range(2, stage.ensemble + 1)}
    for number, (name, place) in enumerate(kept.items(), 1):
        if not place.exists():
            _other(stage, number, ground, aside, folder.path / name, place)
    one = _member(stage, ground, aside, folder.path)
    if ground.mesh.main:
        reader, extra = one.renderer, {"recipe.yaml": ground.recipe}
        template = reader.template if isinstance(reader.template, str) else None
        save_classifier(
            one.net, one.weight, one.tokenizer, reader.stops, folder.model, one.facts, extra, template, kept
        )
    ground.mesh.barrier()
    shares = {
        f"{stage.name}: right on held-out {name}": {
            "value": one.facts[name]["accuracy"],
            "unit": "share",
            "better": "higher",
        }
        for name in ("prompts", "people")
        if name in one.facts
    }
    numbers = training_facts(*one.found, ground, began, said)
    return Artifact(outputs={"model": folder.model}, facts={**numbers, "reward": one.facts, "measures": shares})


def _other(stage: RewardModel, number: int, ground: Ground, aside: Aside, path: Path, place: Path) -> None:
    """Trains a further member of the ensemble, and keeps it until the stage is finished."""
    name = f"{stage.name} {number + 1}"
    one = _member(stage.model_copy(update={"seed": stage.seed + number, "name": name}), ground, aside, path)
    if ground.mesh.main:
        save_member(one.net, one.weight, place, one.facts)
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
    ground.mesh.barrier()


def _aside(stage: RewardModel, ground: Ground) -> Aside:
    """The judgements to learn from, and those to measure on."""
    assert stage.data is not None
    if not ground.mesh.main:
        ground.mesh.barrier()  # the first process fills the cache
    how = (ground.outputs, stage.seed, ground.renderer(), ground.cache / "tokens", Reward())
    corpora = tokenized(stage.data, *how)
    heldout = tokenized(stage.heldout, *how) if stage.heldout else []
    if ground.mesh.main:
        ground.mesh.barrier()
    aside = set_aside(corpora, heldout, stage.holdout, stage.people, stage.seed)
    if not aside.learned:
        what = "no judgement is left to learn from"
        raise DataProblem(
            what, where=stage.data.sources[0].path, remedy="give more of them, or lower holdout and people"
        )
    return aside


def _bound(stage: RewardModel, ground: Ground, learned: Sequence[Corpus]) -> Reward:
    """The objective, told who judged and which ratings there are. Raises DataProblem where nothing is compared."""
    (objective,) = bound(stage, ground.tokens())
    if not isinstance(objective, Reward):
        what = f"{type(objective).__name__} gives answers no number"
        raise UsageProblem(what, where=stage.name, remedy="use the objective reward, or one derived from it")
    said = [judged(corpus) for corpus in learned]
    people = sorted({int(one) for each in said for one in np.unique(each.who)} - {0})
    scores = np.unique(np.concatenate([each.score for each in said]))
    levels = [float(score) for score in scores[~np.isnan(scores)]]
    alone = all((np.diff(each.bound) < 2).all() for each in said)
    if alone and objective.form != "ratings":
        what = f"every prompt has one answer, and {objective.form} compares several"
        raise DataProblem(what, where=stage.name, remedy="say objective: {reward: {form: ratings}}")
    if objective.form != "ratings" and not any(_apart(each) for each in said):
        what = "no two answers to a prompt were judged differently"
        raise DataProblem(what, where=stage.name, remedy="give chosen and rejected, or rankings that are not all ties")
    if len(levels) < 2 or (objective.form == "ratings" and len(levels) > 100):
        what = f"the judgements have {len(levels)} different values"
        raise DataProblem(what, where=stage.name, remedy="ratings are a few levels, such as 1 to 5")
    return replace(objective, people=tuple(people) if "person" in objective.debias else (), levels=tuple(levels))


def _apart(said: Judged) -> bool:
    """Whether somebody found one of a prompt's answers better than another."""
    each = (said.score[said.of(i)] for i in range(len(said.bound) - 1))
    return any(len(np.unique(one[~np.isnan(one)])) > 1 for one in each)


@dataclass(frozen=True)
class Member:
    """A trained reward model: its network, its head [D], what was found out about it, and about its training."""

    net: PreTrainedModel
    weight: Tensor
    tokenizer: PreTrainedTokenizerFast
    renderer: Renderer
    facts: dict[str, Any]
    found: tuple[Trained, Counts, Tuned]


def _member(stage: RewardModel, ground: Ground, aside: Aside, path: Path) -> Member:
    """Trains one reward model in the folder ``path``."""
    objective = _bound(stage, ground, aside.learned)
    tokenizer = tokenizer_for([objective], ground)
    model, tuned = prepared(stage, ground, tokenizer, [objective])
    renderer = Renderer(tokenizer, stops_of(model.net))
    check_classifier(model.net, tokenizer, renderer.stops)
    (task,) = stage.task_list
    parts, counts = cut(aside.learned, stage.context, stage.overlong, stage.name)
    for held in filter(None, (aside.prompts, aside.people)):
        cut(held, stage.context, "drop", f"{stage.name}, held out")  # before anything is trained
    for line in counts.lines():
        ground.say(f"{stage.name}: {line}")
    mesh, how = ground.mesh, {"pack": stage.pack, "shuffle": stage.shuffle}
    stream = TokenStream(parts, stage.context, stage.batch_size, stage.seed, **how, rank=mesh.rank, world=mesh.size)
    source = Source(task.name, objective, stream, task)
    done = Loop(model, [source], stage, length(stage, stream), path, mesh, ground.say, stage.name).run()
    weight = mesh.gathered(model.heads)["reward.weight"][0].float().cpu()
    some = cut([subset(c, REFERENCE, stage.seed) for c in aside.learned], stage.context, "drop")[0]
    weight, scale = normalised(weight, read(model, some, mesh).hidden)
    facts: dict[str, Any] = {"form": objective.form, "scale": scale}
    for name, corpora in (("prompts", aside.prompts), ("people", aside.people)):
        found = measured(model, corpora, weight, stage, mesh) if corpora else []
        line = f"held-out {name}: nothing there was judged differently"
        if found:
            facts[name] = trust.facts(found, scale)
            line = trust.told(f"held-out {name}", facts[name])
        if corpora:
            ground.say(f"{stage.name}: {line}")
    net, tokenizer = whole(model, stage, ground, renderer)
    return Member(net, weight, tokenizer, renderer, facts, (done, counts, tuned))


@dataclass(frozen=True)
class Read:
    """Answers as a reward model has read them: ``hidden`` [N, D], and what example and prompt each is of."""

    hidden: Tensor
    score: list[float]
    example: list[int]
    prompt: list[int]


@torch.no_grad()
def read(model: Model, parts: Sequence[Pieces], mesh: Mesh) -> Read:
    """Every answer once, whatever the weight of its source; every process reads all of them."""
    parts = [replace(part, corpus=replace(part.corpus, weight=1.0)) for part in parts]
    hidden, score, example, training = list[Tensor](), list[float](), list[int](), model.training
    ids = [prompt_ids(part.corpus) for part in parts]
    prompt = [ids[i][j] for i, part in enumerate(parts) for j in (part.example if part.example is not None else ())]
    stream = TokenStream(parts, 8, ROWS, 0, pack=False, shuffle=False)
    count, batches = len(stream.epoch(0)), stream.start(0)
    model.eval()
    for start in range(0, count, ROWS):
        batch = next(batches)[0].to(mesh.device)
        batch = batch.rows(slice(0, min(ROWS, count - start)))  # the last batch wraps into the next epoch
        there = batch.of >= 0
        found = endings(model, batch.with_(reach=causal_reach(batch)))
        hidden.append(found[there].float().cpu())
        score += batch.score[there].tolist()
        example += (start + there.nonzero()[:, 0]).tolist()
    mesh.reshard(model)
    model.train(training)
    return Read(torch.cat(hidden), score, example, [prompt[i] for i in example])


def normalised(weight: Tensor, hidden: Tensor) -> tuple[Tensor, float]:
    """The head [D] whose rewards of the reference answers have mean 0 and deviation 1, and that deviation before.

    A classifier of transformers has no bias. What takes the mean away is, of all vectors that do, the one that adds
    least variance to the rewards: S^-1 m, where m is the mean of the hidden states and S their covariance.
    """
    wide, h = weight.double(), hidden.double()
    mean = h.mean(0)
    apart = h - mean
    spread = apart.T @ apart / len(h)
    spread.diagonal().add_(RIDGE * spread.diagonal().mean() + 1e-12)
    away = torch.linalg.solve(spread, mean)
    wide = wide - (wide @ mean) / (away @ mean) * away
    deviation = (h @ wide).std(correction=0).clamp(min=1e-12)
    return (wide / deviation).float(), deviation.item()


def measured(
    model: Model, corpora: Sequence[Corpus], weight: Tensor, stage: RewardModel, mesh: Mesh
) -> list[trust.Judgement]:
    """What the rewards say of answers that people judged differently; answers judged alone are paired at random."""
    one = read(model, cut(corpora, stage.context, "drop", stage.name)[0], mesh)
    rewards = (one.hidden @ weight).tolist()
    found = trust.judgements(one.prompt, one.example, one.score, rewards)
    if found:
        return found
    order = np.random.default_rng(stage.seed).permutation(len(one.score))
    pairs = [0] * len(order)
    for number, place in enumerate(order):
        pairs[place] = number // 2  # each answer in one pair, so that the pairs are independent
    return trust.judgements(pairs, pairs, one.score, rewards)
