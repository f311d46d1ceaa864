import json

import pytest

from didact.data import domain
from didact.data.domain.boolq import boolq

RECORDS = [
    {"question": f"is question {i} about page {i // 2}", "title": f"Page {i // 2}", "answer": str(i % 3 == 0),
     "passage": f"Page {i // 2} says much. It also says {i // 2 * 7}."}
    for i in range(40)
]  # fmt: skip


@pytest.fixture
def made(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/dev.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    facts = boolq(tmp_path / "out", 0.3, 1, tmp_path / "source")
    return facts, {name: [json.loads(line) for line in (tmp_path / "out" / name).open()] for name in facts["counts"]}


def test_every_question_has_its_passage_on_its_side(made):
    facts, files = made
    assert sum(facts["counts"][f"questions{side}.jsonl"] for side in ("", ".heldout")) == 40
    assert sum(facts["counts"][f"documents{side}.jsonl"] for side in ("", ".heldout")) == 20
    for side in ("", ".heldout"):
        texts = {line["id"]: line["text"] for line in files[f"documents{side}.jsonl"]}
        for question, pair in zip(files[f"questions{side}.jsonl"], files[f"asked{side}.jsonl"], strict=True):
            number = question["messages"][0]["content"].removesuffix("?").rpartition(" ")[2]
            assert texts[question["id"]].startswith(f"# Page {number}\n\nPage {number} says much.")
            assert pair["positive"] == texts[question["id"]]
            assert pair["anchor"] == question["messages"][0]["content"]


def test_answers_are_those_of_the_records(made):
    said = {
        q["messages"][0]["content"]: q["messages"][1]["content"] for n, f in made[1].items() if "quest" in n for q in f
    }
    for i, record in enumerate(RECORDS):
        assert said[f"Is question {i} about page {i // 2}?"] == ("Yes." if record["answer"] == "True" else "No.")


@pytest.mark.download
def test_the_real_one(tmp_path):
    facts = domain.build("boolq", tmp_path, 0.1, 0, lambda line: None)
    assert facts["counts"]["questions.jsonl"] + facts["counts"]["questions.heldout.jsonl"] == 3270
