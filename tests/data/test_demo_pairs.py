import json

import pytest

from didact.data import domain
from didact.data.domain.demo_pairs import demo_pairs
from didact.data.example import Answers
from didact.data.files import read
from didact.data.formats import parse

RECORDS = [
    {
        "conversations": [{"from": "system", "value": "Be terse."}, {"from": "human", "value": f"{i // 2} and one?"}],
        "chosen": {"from": "gpt", "value": str(i // 2 + 1)},
        "rejected": {"from": "gpt", "value": f"It is {i}."},
    }
    for i in range(40)
]


def test_pairs_are_read_as_answers_and_a_prompt_is_on_one_side(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/dpo_en_demo.json").write_text(json.dumps(RECORDS))
    facts = demo_pairs(tmp_path / "out", 0.3, 1, tmp_path / "source")
    sides = [list(parse(read(tmp_path / "out" / name))) for name in facts["counts"]]
    prompts = [{one.prompt[1]["content"] for one in side} for side in sides]
    assert sum(map(len, sides)) == 40
    assert len(prompts[0] | prompts[1]) == 20
    assert not prompts[0] & prompts[1]
    for one in sides[0] + sides[1]:
        assert isinstance(one, Answers)
        assert [turn["role"] for turn in one.prompt] == ["system", "user"]
        assert one.answers[0][0]["content"] == f"{int(one.prompt[1]['content'].split()[0]) + 1}"
        assert one.values == (1.0, 0.0)


@pytest.mark.download
def test_the_real_pairs(tmp_path):
    facts = domain.build("demo-pairs", tmp_path, 0.2, 0, lambda line: None)
    assert facts["counts"] == {"preferences.jsonl": 245, "preferences.heldout.jsonl": 55}
