"""The stage ``crowd``: the model answers, simulated people judge, and what they say lies there as from a real store."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from didact.data.domain.writing import held_out, write
from didact.data.example import Answers, Completion, Conversation, Example, Said
from didact.data.judged import WANTED
from didact.data.source import examples
from didact.engine.durable import on_disk
from didact.errors import DataProblem, UsageProblem
from didact.feedback.crowd import Asked, Member, judge, people, written
from didact.feedback.records import Message
from didact.recipe.crowding import Crowd
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.answer import question
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground, opened

if TYPE_CHECKING:
    from didact.retrieve.index import Index
    from didact.serve.served import Served

Line = dict[str, Any]


def crowd(stage: Crowd, ground: Ground, folder: StageFolder) -> Artifact:
    """Leaves the judgements; the facts say how many there are and how far people agree."""
    facts: dict[str, Any] = {}
    if ground.mesh.main:
        facts = _judged(stage, ground, folder.path)
    ground.mesh.barrier()
    return Artifact(outputs={name: folder.path / _file(name) for name in stage.outputs}, facts=facts)


def _file(output: str) -> str:
    return f"{output}.sqlite" if output.startswith("store") else f"{output}.jsonl"


def _judged(stage: Crowd, ground: Ground, folder: Path) -> dict[str, Any]:
    asked = _asked(stage, ground)
    facts: dict[str, Any] = {"prompts": len(asked)}
    apart = [held_out(orjson.dumps(_turns(one)).decode(), stage.seed, stage.holdout) for one in asked]
    with ExitStack() as open:
        say = _Saying(stage, ground, open)
        for mark, count, prefix in (("", stage.members, "m"), (".heldout", stage.heldout, "h")):
            if not count:
                continue
            mine = [one for one, held in zip(asked, apart, strict=True) if held is bool(mark)]
            if not mine:
                what = f"of {len(asked)} prompts none is {'held out' if mark else 'left to be judged'}"
                raise UsageProblem(what, where=stage.name, remedy="give more prompts, or change holdout")
            members = people(count, stage.tastes, stage.spread, stage.error, stage.first, stage.seed, prefix)
            facts |= {f"{name}{mark}": value for name, value in say.said(folder, mark, members, mine).items()}
    ground.say(
        f"{stage.name}: {stage.members} members gave {facts['judgements']:,} judgements of the answers to "
        f"{apart.count(False):,} prompts"
        + (
            f", {stage.heldout} others {facts['judgements.heldout']:,} of {apart.count(True):,}"
            if stage.heldout
            else ""
        )
    )
    return facts


class _Saying:
    """How members come to their judgements: written straight into the store, or through a server."""

    def __init__(self, stage: Crowd, ground: Ground, open: ExitStack):
        self.stage, self.ground, self.open = stage, ground, open

    def said(self, folder: Path, mark: str, members: Sequence[Member], asked: Sequence[Asked]) -> dict[str, Any]:
        """Writes what members say of what was asked: the store, and each of its forms."""
        from didact.feedback import jsonl  # its packages are an extra
        from didact.feedback.report import report
        from didact.feedback.store import Store

        stage, place = self.stage, folder / _file(f"store{mark}")
        if stage.serve:
            asked, count = self._visited(place, members, asked)
        else:
            count = _written(stage, place, members, asked)
        with Store.open(str(place)) as store:
            forms = [name.removesuffix(mark) for name in stage.outputs if name.endswith(mark)]
            for form in [form for form in forms if form in WANTED]:
                _write(folder, f"{form}{mark}", jsonl.lines(store, WANTED[form]))
            agreed = {kind: found["alpha"] for kind, found in report(store)["agreement"].items() if found["votes"]}
        _write(folder, f"prompts{mark}", map(_prompt, asked))
        with on_disk(folder, "write who judged"):
            write(folder / f"people{mark}.jsonl", written(members))
        return {"judgements": count, "agreement": agreed}

    def _visited(self, place: Path, members: Sequence[Member], asked: Sequence[Asked]) -> tuple[Sequence[Asked], int]:
        from didact.serve.visit import visit  # serving stands above; this stage alone goes through it

        return visit(self.stage, *self._served, place, members, asked)

    @cached_property
    def _served(self) -> tuple["Served", "Index | None"]:
        """The model, and what it answers from."""
        from didact.retrieve.index import Index
        from didact.run.named import Named
        from didact.serve.lane import lane
        from didact.serve.served import Served, public_name

        stage, ground = self.stage, self.ground
        where = _model(stage, ground)
        named = Named(where, *opened(where, ground.mesh.device))
        index = None
        if stage.index:
            (source,) = examples(stage.index, ground.outputs, stage.seed, stage.also)
            index = Index.open(source.files[0].parent, device=ground.mesh.device.type)
            self.open.callback(index.close)
        writes = lane(named)
        self.open.push(writes.open)  # what it lays out for writing is in the way of training
        return Served(public_name(str(where)), named, writes), index


def _written(stage: Crowd, place: Path, members: Sequence[Member], asked: Sequence[Asked]) -> int:
    from didact.feedback.store import Store

    for left in place.parent.glob(f"{place.name}*"):  # of a run that was killed
        left.unlink()
    with Store.open(str(place)) as store:
        return judge(store, members, asked, stage.each, stage.judgements, stage.seed)


def _write(folder: Path, name: str, lines: Iterator[Line]) -> None:
    with on_disk(folder, "write the judgements"):
        write(folder / f"{name}.jsonl", b"".join(orjson.dumps(line) + b"\n" for line in lines))


# --- what is asked and answered --------------------------------------------------------------------------------------


def _asked(stage: Crowd, ground: Ground) -> list[Asked]:
    """The prompts with their answers: the data's, or the model's."""
    found = [example for source in examples(stage.data, ground.outputs, stage.seed) for example in source]
    given = [_given(one) for one in found if isinstance(one, Answers)]
    rest = [_open(one) for one in found if not isinstance(one, Answers)]
    rest = [replace(one, seed=stage.seed + number * stage.answers) for number, one in enumerate(rest)]
    return given + (rest if stage.serve or not rest else _answered(stage, ground, rest))


def _answered(stage: Crowd, ground: Ground, rest: Sequence[Asked]) -> list[Asked]:
    model, renderer = opened(_model(stage, ground), ground.mesh.device)
    prompts = [renderer.prompt(_turns(one)) for one in rest for _ in range(stage.answers)]
    ground.say(f"{stage.name}: {len(rest):,} prompts are answered {stage.answers} times each")
    way = Sampling(temperature=stage.temperature, top_p=1, max_new_tokens=stage.max_new_tokens, seed=stage.seed)
    sampler = Sampler(model, partial(renderer.decode, skip_special=True), renderer.stops, stage.batch_size)
    said = [out.text for out in sampler.generate(prompts, way)]
    cut = [said[start : start + stage.answers] for start in range(0, len(said), stage.answers)]
    return [one.answered(texts) for one, texts in zip(rest, cut, strict=True)]


def _model(stage: Crowd, ground: Ground) -> Path:
    if ground.model is None:
        raise UsageProblem("there is no model to answer yet", where=stage.name, remedy="train one before this stage")
    return ground.model


def _given(one: Answers) -> Asked:
    """Answers that the data brings; the one it values most is the reference."""
    if len(one.answers) < 2:
        raise DataProblem("one answer is nothing to choose from", where=one.where, remedy="give two answers or more")
    texts = tuple(_text(answer) for answer in one.answers)
    best = max(range(len(texts)), key=lambda i: one.values[i] if one.values[i] == one.values[i] else -math.inf)
    return Asked(_messages(one.prompt), texts, texts[best])


def _open(one: Example) -> Asked:
    """A question of the data, and its own answer to hold others against."""
    if isinstance(one, Completion):
        return Asked(_messages(one.prompt), (), one.completion)
    asked = question(one)
    assert isinstance(one, Conversation)
    return Asked(_messages(asked), (), str(one.messages[len(asked)]["content"]))


def _messages(said: str | Iterable[Mapping[str, Any]]) -> tuple[Message, ...]:
    if isinstance(said, str):
        return (Message(role="user", content=said),)
    return tuple(Message(role=turn["role"], content=str(turn["content"])) for turn in said)


def _text(said: Said) -> str:
    return said if isinstance(said, str) else str(said[-1]["content"])


def _turns(one: Asked) -> list[Line]:
    return [turn.model_dump() for turn in one.prompt]


def _prompt(one: Asked) -> Line:
    """The prompt as data, with the reference as its answer."""
    answer = one.reference or one.answers[0]
    return {"messages": [*_turns(one), {"role": "assistant", "content": answer}]}
