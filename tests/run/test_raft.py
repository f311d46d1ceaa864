"""RAFT in a recipe: documents are indexed, questions become prompts of passages, a model learns and is measured."""

import json

import pytest

from didact.errors import DataProblem
from tests.run.test_life import SCRATCH, TOKENIZER, base, world  # noqa: F401

NAMES = ["wheel", "spring", "lever", "gear", "valve", "crank", "piston", "hinge", "bolt", "cam", "pulley", "rivet"]
INDEX = "{index: {data: pages.jsonl, embedder: none, size: 200, overlap: 0}}"
RAFT = "{raft: {data: asked.jsonl, heldout: later.jsonl, index: index/index, distractors: 2, measured: [0, 2], MORE}}"
LEARN = "{finetune: {data: raft/train, context: 1024, batch_size: 2, max_steps: 1}}"
MEASURE = "{evaluate: {against: none, measures: {worth: {worth: {data: raft/open2, context: 1024}}}}}"


def chat(name: str) -> str:
    messages = [("user", f"What is the {name} for?"), ("assistant", f"The {name} turns {name}s in the engine.")]
    return json.dumps({"messages": [{"role": role, "content": said} for role, said in messages], "id": f"page-{name}"})


@pytest.fixture
def engine(world):  # noqa: F811
    pages = [
        {"id": f"page-{n}", "text": f"# {n}\n\nA part of every engine. The {n} turns {n}s in the engine."}
        for n in NAMES
    ]
    (world.folder / "pages.jsonl").write_text("\n".join(map(json.dumps, pages)))
    (world.folder / "asked.jsonl").write_text("\n".join(map(chat, [*NAMES[:9], "ghost"])))
    (world.folder / "later.jsonl").write_text("\n".join(map(chat, NAMES[9:])))
    return world


def test_from_documents_to_a_model_that_reads_passages(engine):
    engine.recipe(TOKENIZER, INDEX, RAFT.replace("MORE", "golden: 1"), LEARN, MEASURE, base=SCRATCH)
    engine.run()
    assert "raft: 9 questions of asked.jsonl; 1 left out, whose document is not in the index" in engine.said
    (folder,) = engine.stages("raft")
    made = {path.stem: [json.loads(line) for line in path.open()] for path in folder.glob("*.jsonl")}
    assert {name: len(lines) for name, lines in made.items()} == {"train": 9, "closed": 3, "open0": 3, "open2": 3}
    for record in made["train"]:
        quote = record["messages"][2]["content"].split(" [")[0].removeprefix("> ")
        name = quote.split()[1]
        assert quote == f"The {name} turns {name}s in the engine."
        assert f"page-{name}" in record["documents"]
        assert len(set(record["documents"])) == 3
    assert engine.facts("evaluate")["measures"]["worth"]["unit"] == "nats"
    assert engine.run() == ["tokenizer", "index", "raft", "finetune", "evaluate"]


def test_a_changed_document_makes_new_prompts(engine):
    engine.recipe(INDEX, RAFT.replace("MORE", "quote: false"))
    engine.run()
    pages = (engine.folder / "pages.jsonl").read_text()
    (engine.folder / "pages.jsonl").write_text(pages.replace("A part of every", "An important part of every"))
    assert engine.run() == []
    assert any("An important part" in (folder / "train.jsonl").read_text() for folder in engine.stages("raft"))


def test_questions_without_a_document_are_one_line(engine):
    (engine.folder / "asked.jsonl").write_text(chat("ghost"))
    engine.recipe(INDEX, RAFT.replace("MORE", "quote: false"))
    with pytest.raises(DataProblem, match="the index has the document of none of the questions"):
        engine.run()
    (engine.folder / "asked.jsonl").write_text(chat("ghost").replace('"id"', '"name"'))
    with pytest.raises(DataProblem, match=r"asked.jsonl:1: no question with an answer and a document"):
        engine.run()
