"""Long prompts are read in pieces: whoever writes meanwhile goes on, and what comes out is what would have come out."""

import gc
from types import SimpleNamespace

import pytest
import torch

from didact.model import uncompiled
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.named import open_model
from didact.serve import lane as lanes
from didact.serve.engine import Ask

WAY = Sampling(temperature=0, max_new_tokens=6)
SHORT, LONG = [5, 9, 4, 7], [(7 * i) % 40 + 3 for i in range(37)]


@pytest.fixture(scope="module")
def named(base):
    return open_model(str(base), "cpu", lambda line: None, torch.float32)


@pytest.fixture
def lane(named, monkeypatch):
    monkeypatch.setattr(lanes, "CHUNK", 8)
    with torch.inference_mode():
        made = lanes.Lane(named)
        made.decoder.stops = frozenset()
        yield made
        made.open.close()


class Job(SimpleNamespace):
    """As the engine has them."""

    __hash__ = object.__hash__

    def __init__(self, prompt, index=0, **way):
        super().__init__(ask=Ask(prompt, WAY.model_copy(update=way)), index=index)


def finished(lane, *jobs):
    """What each job comes to."""
    done = {}
    while len(done) < len(jobs):
        done |= {job: out for job in lane.step() if (out := lane.out(job)).reason}
    return [done[job] for job in jobs]


@pytest.mark.parametrize("size", [8, 9, 16, 17, 37])
def test_a_prompt_in_pieces_is_the_prompt(named, lane, size):
    decode = named.renderer.decode
    (expected,) = Sampler(named.model, decode, ()).generate([LONG[:size]], WAY)
    job = Job(LONG[:size])
    lane.admit([job])
    (out,) = finished(lane, job)
    assert out.tokens == expected.tokens
    assert out.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert lane.decoder.cache.slots == 0


def test_those_who_write_go_on_while_a_long_prompt_is_read(lane):
    writing, waiting = Job(SHORT, max_new_tokens=50), Job(LONG)
    assert lane.admit([writing]) == [writing]
    assert lane.admit([waiting]) == []
    steps = [lane.step() for _ in range(5)]
    assert steps == [[writing]] * 4 + [[writing, waiting]]  # 37 tokens, 8 at a time


def test_several_answers_to_one_long_prompt_read_it_once(lane, monkeypatch):
    read = []
    onward = lanes.DocumentCache.onward
    monkeypatch.setattr(lanes.DocumentCache, "onward", lambda *given: read.append(given) or onward(*given))
    jobs = [Job(LONG, i, temperature=1.0, seed=i) for i in range(3)]
    assert lane.admit(jobs) == []
    one, two, three = finished(lane, *jobs)
    assert len(read) == 3
    alone = Job(LONG, 1, temperature=1.0, seed=1)
    lane.admit([alone])
    assert finished(lane, alone)[0].tokens == two.tokens
    assert one.tokens != two.tokens or two.tokens != three.tokens


def test_whoever_leaves_while_the_prompt_is_read_leaves_nothing(lane):
    jobs = [Job(LONG, i) for i in range(2)]
    lane.admit(jobs)
    lane.step()
    lane.cancel(jobs[0])
    assert lane.reading[0].jobs == jobs[1:]
    lane.cancel(jobs[1])
    assert not lane.reading
    assert lane.step() == []
    assert not lane.rows


def test_a_lane_that_nobody_needs_leaves_the_model_and_the_compiler_alone(named):
    before, net = uncompiled._users, named.model.net
    made = lanes.Lane(named)
    assert uncompiled._users == before + 1
    del made
    gc.collect()
    assert uncompiled._users == before
    assert all("forward" not in vars(module) for module in net.modules())
