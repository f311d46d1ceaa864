"""Groups without signal are replaced: by which prompts, that they come again, and what is then measured."""

import json

import pytest
import torch

from didact.objective.policy import Dapo
from didact.rng import Rng
from didact.rollout.refill import filled
from tests.rollout.scene import toy_experience
from tests.toy import toy_model


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.2])
def test_it_takes_the_first_groups_that_tell_something(share):
    """Whatever is drawn at once: as if prompts had been drawn one after the other."""
    draw = torch.Generator().manual_seed(1)
    telling = (torch.rand(1000, generator=draw) < share).tolist()
    asked: list[range] = []

    def drawn(numbers: range) -> list[int]:
        asked.append(numbers)
        return list(numbers)

    kept, found = filled(drawn, lambda number: telling[number], 7, 16, 100)
    expected = [number for number in range(7, 1000) if telling[number]][:16]
    assert kept == expected
    assert found == list(range(7, expected[-1] + 1))
    assert [number for each in asked for number in each] == list(range(7, asked[-1].stop))
    assert all(len(each) <= 16 for each in asked)
    assert asked[-1].stop <= found[-1] + 1 + 16


def test_too_few_are_filled_up():
    kept, found = filled(list, lambda number: number % 8 == 5, 0, 8, 3)
    assert found == list(range(24))
    assert kept == [0, 1, 2, 3, 4, 5, 13, 21]
    assert filled(list, lambda number: False, 3, 4, 1) == ([3, 4, 5, 6], [3, 4, 5, 6])


def phases(stream, count):
    return [stream.phase(number) for number in range(count)]


def test_half_of_the_prompts_tell_nothing(tmp_path):
    stream = toy_experience(tmp_path, Dapo(), reward="half", prompts=13)
    asked = [stream._asked(index).record["number"] % 2 for index in range(60)]
    telling = [index for index, tells in enumerate(asked) if tells]
    first = 0
    for number, phase in enumerate(phases(stream, 4)):
        expected = telling[4 * number : 4 * number + 4]
        assert phase.rows.row.tolist() == expected, number
        after = expected[-1] + 1
        assert phase.state["next"] == after
        lines = (tmp_path / "rollouts" / f"phase-{number:08d}" / "said.jsonl").read_text().splitlines()
        said = [json.loads(line) for line in lines]
        assert len(said) == 3 * (after - first)
        gauges = {"no_signal": 1 - 4 / (after - first), "reward": sum(one["score"] for one in said) / len(said)}
        gauges["reward/half"] = gauges["reward"]
        for name, value in gauges.items():
            torch.testing.assert_close(phase.rows[name], torch.full((4, 3), value))
        first = after


def test_the_gauges_are_of_all_that_was_drawn(tmp_path):
    stream = toy_experience(tmp_path, Dapo(drop_unfinished=False), reward="half")
    batch = next(stream.start(0))[0]
    ready = stream.objective.prepare(stream.cast.model, batch, Rng(0, 0))
    found = stream.objective.loss(stream.cast.model, ready)
    for name in ("no_signal", "reward", "reward/half"):
        assert torch.equal(found[name], batch[name])
        assert ready.weight[name].all()
    assert float(batch["no_signal"][0, 0]) > 0.2
    assert ready.weight["policy"].any()
    assert found.keys() == ready.weight.keys()


def test_without_refilling_nothing_is_replaced(tmp_path):
    stream = toy_experience(tmp_path, Dapo(max_num_gen_batches=1), reward="half")
    batch = stream.phase(0).rows
    assert batch.row.tolist() == [0, 1, 2, 3]
    assert "no_signal" not in batch


def test_it_goes_on_anywhere(tmp_path):
    model = toy_model()
    how = {"reward": "half", "epochs": 2}
    whole = toy_experience(tmp_path / "whole", Dapo(), model, **how)
    found = [batch for _, (batch, _) in zip(range(12), whole.start(0), strict=False)]
    for cursor in (0, 3, 4, 7, 11):
        batch = next(toy_experience(tmp_path / "whole", Dapo(), model, **how).start(cursor))[0]
        assert all(torch.equal(batch[name], found[cursor][name]) for name in found[cursor])
    anew = toy_experience(tmp_path / "anew", Dapo(), model, **how)
    for (batch, _), one in zip(anew.start(0), found, strict=False):
        assert all(torch.equal(batch[name], one[name]) for name in one)
