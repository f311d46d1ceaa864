"""Two models, the same prompts: the one whose answers are worth more wins, whoever is asked."""

import json
import shutil

import pytest
import torch

from didact.errors import UsageProblem
from didact.measure.pairwise import Pairwise
from didact.rollout.reward.base import Answered
from didact.run.ground import opened
from tests.battery.base import lines
from tests.run.speakers import chain, speaker
from tests.run.test_life import base, world  # noqa: F401 - fixtures

ASK = "{data: asked.jsonl, rewards: [{regex: {pattern: '^yes'}}], temperature: 0, max_new_tokens: 4}"
MEASURES = "{measures: {wins: {win_rate: %s}}, against: none}"


@pytest.fixture
def told(world):  # noqa: F811
    """A base that says no, and another model that says yes."""
    speaker(world.folder / "no", chain("no"))
    speaker(world.folder / "yes", chain("yes"))
    asked = [{"prompt": [{"role": "user", "content": f"Is {i} so?"}], "key": "yes"} for i in range(12)]
    (world.folder / "asked.jsonl").write_text(lines(asked))
    return world


def value(world, options: str = ASK, base: str = "./no") -> float:  # noqa: F811
    shutil.rmtree(world.folder / "runs", ignore_errors=True)
    world.recipe("{evaluate: %s}" % (MEASURES % options), base=base, more="device: cpu\n")
    world.run()
    return world.facts("evaluate")["measures"]["wins"]["value"]


def test_the_better_answer_wins_and_against_itself_nobody_does(told):
    assert value(told) == 0.5
    assert value(told, ASK.replace("{data", "{against: ./yes, data")) == 0.0
    assert any("wins 0.0% (0.0% to 24.2%) of 12 against ./yes, 0 ties" in line for line in told.said)
    assert value(told, ASK.replace("{data", "{against: ./no, data"), base="./yes") == 1.0
    low = value(told, ASK.replace("{data", "{against: ./no, of: low, data"), base="./yes")
    assert low == pytest.approx(1 - 0.2425, abs=1e-3)
    even = value(told, ASK.replace("{data", "{against: ./no, of: even, data"), base="./yes")
    assert 0.5 < even < 1


def test_a_reward_reads_the_record(told):
    function = "[{json: {}}]".replace("json: {}", "regex: {equals: key}")
    assert (
        value(told, ASK.replace("[{regex: {pattern: '^yes'}}]", function).replace("{data", "{against: ./yes, data"))
        == 0.0
    )


def test_another_rival_is_another_stage(told):
    told.recipe("{evaluate: %s}" % (MEASURES % ASK.replace("{data", "{against: ./yes, data")), base="./no")
    told.run()
    assert told.run() == ["evaluate"]
    config = json.loads((told.folder / "yes/config.json").read_text())
    (told.folder / "yes/config.json").write_text(json.dumps(config | {"note": 1}))
    assert told.run() == []


def test_arms_are_held_against_what_they_start_from(told):
    arm = "[{finetune: {data: chats.jsonl, context: 64, batch_size: 2, max_steps: 1, learning_rate: 1e-6, \
forgetting: false}}]"
    arms = f"{{tuned: {arm}, untouched: []}}"
    compare = f"{{compare: {{seeds: [0], arms: {arms}, measures: {{wins: {{win_rate: {ASK}}}}}}}}}"
    told.recipe(compare, base="./yes", more="device: cpu\n")
    told.run()
    found = told.facts("compare")["comparison"]["measures"]["wins"]["arms"]
    assert found == {"tuned": [0.5], "untouched": [0.5]}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("{data: asked.jsonl}", "needs 'rewards' or a 'judge'"),
        ("{data: asked.jsonl, rewards: [{regex: a}], judge: ./no}", "one of them"),
        ("{data: asked.jsonl, rewards: [{regexx: a}]}", "a reward is a mapping of one key"),
        ("{data: asked.jsonl, rewards: [{regex: a}], of: median}", "should be 'rate', 'low', 'even' or 'even_low'"),
    ],
)
def test_what_cannot_be_judged_is_said_before_anything_runs(told, options, what):
    with pytest.raises(UsageProblem, match=what):
        value(told, options)


def test_a_judge_whom_the_place_decides_gives_a_tie(told):
    model, renderer = opened(told.folder / "no", torch.device("cpu"))
    judge = Pairwise(model, renderer)
    one, other = (Answered(({"role": "user", "content": "?"},), text, {}) for text in ("abc", "def"))
    assert judge([one, one], [other, one]) == [0.5, 0.5]
    assert (judge.swayed, judge.count) == (1, 1)


class Longest(Pairwise):
    """Takes the longer answer, or of equals the first."""

    def _first_wins(self, first, second):
        return len(first.answer) >= len(second.answer)


def test_a_judge_who_says_the_same_in_both_orders_decides(told):
    judge = Longest(*opened(told.folder / "no", torch.device("cpu")))
    a, b, c = (Answered(({"role": "user", "content": "?"},), text, {}) for text in ("long one", "short", "brief"))
    assert judge([a, b, b], [b, a, c]) == [1.0, 0.0, 0.5]
    assert (judge.swayed, judge.count) == (1, 3)
