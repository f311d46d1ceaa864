"""``didact eval A B --prompts``: rewards, a judge and people, blind."""

import json

import pytest

from didact.errors import DataProblem, UsageProblem
from didact.feedback.records import Exchange, Ranking
from didact.feedback.report import report
from didact.feedback.review import following, left
from didact.feedback.store import Store
from didact.rollout.prompts import Prompt, readable
from didact.run.duel import Duel, duel
from tests.battery.base import lines
from tests.run.speakers import chain, speaker


@pytest.fixture
def two(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    speaker(tmp_path / "no", chain("no"))
    speaker(tmp_path / "yes", chain("yes"))
    asked = [{"prompt": [{"role": "user", "content": f"Is {i} so?"}]} for i in range(12)]
    (tmp_path / "asked.jsonl").write_text(lines(asked))
    capsys.readouterr()
    return tmp_path


def asked(**options) -> Duel:
    return Duel("asked.jsonl", temperature=0, max_new_tokens=4, device="cpu", **options)


def test_a_reward_judges(two, capsys):
    told = duel("yes", "no", asked(rewards=("regex: {pattern: '^yes'}",)), print)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == told
    assert (told["win_rate"], told["ties"], told["prompts"]) == (1.0, 0, 12)
    assert told["interval"][0] == pytest.approx(0.7575, abs=1e-3)
    assert 0.5 < told["win_rate_at_equal_length"] < 1
    assert told["general_bits_per_byte"][0] > 0
    assert duel("no", "yes", asked(rewards=("regex: {pattern: '^yes'}",)), print)["win_rate"] == 0.0


def test_a_judge_reads_both_orders(two):
    told = duel("yes", "no", asked(judge="no", limit=2), print)
    assert told["win_rate"] == 0.5  # this judge knows nothing, so the place decides
    assert told["decided_by_place"] == 2


def test_people_are_asked_without_being_told_whose_is_whose(two):
    told = duel("yes", "no", asked(people=1, store="s.sqlite"), print)
    assert told["queued"] == 12
    assert duel("yes", "no", asked(people=1, store="s.sqlite"), print)["queued"] == 12
    with Store.open("s.sqlite") as store:
        assert left(store, "ann") == 12
        first = set()
        while item := following(store, "ann"):
            exchange = store.get(item.record.exchange).record
            assert isinstance(exchange, Exchange)
            first.add(exchange.shown)
            order = [[0], [1]] if exchange.candidates[0].text.startswith("yes") else [[1], [0]]
            store.add(Ranking(exchange=item.record.exchange, annotator="ann", ranking=order))
        assert first == {(0, 1), (1, 0)}
        assert report(store)["win_rates"]["yes"]["rate"] == 1.0


def test_a_prompt_without_room_for_an_answer_is_named():
    asked = [Prompt((1, 2), (), {}, "a:1"), Prompt((1,) * 9, (), {}, "a:2")]
    assert readable(asked, 10) == asked
    with pytest.raises(DataProblem, match="a:2: the prompt has 9 tokens, and the model reads 9 with its answer"):
        readable(asked, 9)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "who judges"),
        ({"judge": "no", "people": 1}, "who judges"),
        ({"rewards": ("regexx: a",)}, "a reward is a mapping of one key"),
        ({"rewards": ("regex: {",)}, "--reward"),
    ],
)
def test_who_judges_is_said_first(two, options, what):
    with pytest.raises(UsageProblem, match=what):
        duel("yes", "no", asked(**options), print)
