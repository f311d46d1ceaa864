"""The stage ``raft``: from questions and an index to prompts that answer out of passages."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from didact.data.domain.writing import publish
from didact.data.example import Conversation
from didact.data.files import Record, read
from didact.data.formats import example
from didact.data.raft import Asked, Plan, files
from didact.data.settings import Data
from didact.data.source import examples
from didact.errors import DataProblem
from didact.recipe.making import Raft
from didact.retrieve.index import Index
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground

DEPTH = 4  # passages looked at for each that is wanted: some are of the right document, some have its answer


def raft(stage: Raft, ground: Ground, folder: StageFolder) -> Artifact:
    """Writes one file an output; the bytes are a function of the questions, the index and the stage alone."""
    facts: dict[str, Any] = {}
    if ground.mesh.main:
        (source,) = examples(stage.index, ground.outputs, stage.seed, stage.also)
        index = Index.open(source.files[0].parent)
        plan = Plan(stage.golden, stage.distractors, stage.quote, stage.refuse, stage.found, stage.seed)
        train = _asked(stage, stage.data, stage.examples, index, ground)
        apart = _asked(stage, stage.heldout, stage.evaluations, index, ground) if stage.heldout else []
        made = files(plan, train, apart, stage.measured if stage.heldout else ())
        lines = {f"{name}.jsonl": made[name] for name in stage.outputs}
        facts = publish(folder.path, lines, {"index": index.facts["embedder"], "golden": stage.golden})
        index.close()
    ground.mesh.barrier()
    return Artifact(outputs={name: folder.path / f"{name}.jsonl" for name in stage.outputs}, facts=facts)


def _asked(stage: Raft, data: Data, count: int, index: Index, ground: Ground) -> list[Asked]:
    """So many of the questions, by the seed; those whose document the index lacks are counted aloud."""
    sources = examples(data, ground.outputs, stage.seed)
    records = [record for source in sources for file in source.files for record in read(file)]
    Random(f"{stage.seed}/raft").shuffle(records)
    wanted = 1 + max(stage.distractors, *(stage.measured if data is stage.heldout else (0,)))
    found: list[Asked] = []
    lost = 0
    for record in records:
        if len(found) == count:
            break
        one = _answered(record, index, DEPTH * wanted)
        lost += one is None
        found += [one] if one else []
    if not found:
        what = "the index has the document of none of the questions"
        remedy = "give questions the id of the record that answers them"
        raise DataProblem(what, where=data.sources[0].path, remedy=remedy)
    ground.say(
        f"{stage.name}: {len(found):,} questions of {data.sources[0].path}"
        + (f"; {lost:,} left out, whose document is not in the index" if lost else "")
    )
    return found


def _answered(record: Record, index: Index, depth: int) -> Asked | None:
    """A question with what the index has for it; None where it lacks the document."""
    where, fields = record
    chat = example(where, fields)
    if not isinstance(chat, Conversation) or chat.messages[-1]["role"] != "assistant" or "id" not in fields:
        remedy = "give messages that end with the answer, and the id of the document that it is from"
        raise DataProblem("no question with an answer and a document", where=where, remedy=remedy)
    question, source = chat.messages[-2]["content"], str(fields["id"])
    found = index.search(question, depth)
    gold = [one for one in found if one.source == source] or list(_of(index, question, source))
    return Asked(question, chat.messages[-1]["content"], gold, found) if gold else None


def _of(index: Index, question: str, source: str) -> Iterator[Any]:
    """The passages of one document that have anything to do with the question."""
    exact = source.translate({ord(sign): f"[{sign}]" for sign in "*?["})
    return (one for one in index.search(question, 8, where={"source": exact}) if one.source == source)
