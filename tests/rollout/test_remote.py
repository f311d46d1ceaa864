"""Answers from an engine behind a URL: a real server with the same model says what the sampler here says."""

import json
import socket
from http.server import BaseHTTPRequestHandler

import pytest
import torch

from didact.engine.mesh import Mesh
from didact.engine.step import Interrupted
from didact.errors import ResourceProblem, UsageProblem
from didact.objective.policy import Grpo
from didact.rng import mix
from didact.rollout.answering import answers
from didact.rollout.cast import Cast, read
from didact.rollout.experience import Experience, Setting
from didact.rollout.prompts import prompt
from didact.rollout.remote import Engine
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Rollout, Sampling
from didact.run.named import open_model
from didact.serve.lane import lane
from didact.serve.served import Served
from tests.battery.base import make_base
from tests.listening import listening
from tests.serve.running import running

CONTEXT = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def url(base):
    named = opened(base)
    with running(Served("tiny", named, lane(named))) as up:
        yield f"{up.url}/v1"


@pytest.fixture
def named(base):
    return opened(base)


def opened(base):
    return open_model(str(base), "cpu", lambda line: None, torch.float32)


def engine(url, named, **fields):
    return Engine(Rollout(url=url, model="tiny", **fields), named.renderer.decode, named.renderer.stops, CONTEXT)


def experience(folder, named, say=lambda line: None, around=None, **fields):
    rollout = Rollout(group=3, prompts=2, max_new_tokens=8, **fields)
    records = [{"prompt": f"The {colour} a"} for colour in ("red", "blue")]
    asked = [prompt(f"d:{i}", record, named.renderer) for i, record in enumerate(records)]
    objective = Grpo().acting(8, 1.0, ())
    mesh = Mesh(torch.device("cpu"))
    cast = Cast(named.model, mesh, lambda: named.model)
    setting = Setting(2, 2, CONTEXT, 0, folder, "policy", rollout)
    rewards = lambda done: ([float(len(one.answer)) for one in done], {})  # noqa: E731
    return Experience(objective, asked, rewards, cast, named.renderer, setting, mesh, say, around)


def test_the_same_seeds_give_the_same_answers(url, named):
    prompts = [named.renderer.beginning(text) for text in ("The red", "The blue a is")]
    stops = ("e", "in")
    ways = [
        [Sampling(temperature=1, top_p=1, max_new_tokens=40, stop=stops[k % 3 :], seed=mix(k)) for k in range(24)]
        for _ in prompts
    ]
    sampler = Sampler(named.model, named.renderer.decode, named.renderer.stops, longest=CONTEXT)
    wanted = answers(sampler, prompts, ways)
    found = engine(url, named).answers(prompts, ways)
    ended = set()
    for each, others in zip(found, wanted, strict=True):
        for one, other in zip(each, others, strict=True):
            assert (one.tokens, one.text, one.reason) == (other.tokens, other.text, other.reason)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            ended.add((one.reason, one.tokens[-1] in named.renderer.stops))
    assert ended == {("stop", True), ("stop", False), ("length", False)}


def test_a_phase_holds_what_the_model_says_of_it(tmp_path, url, named):
    said: list[str] = []
    stream = experience(tmp_path, named, said.append, url=url, model="tiny")
    for (batch, _), _ in zip(stream.start(0), range(2), strict=False):
        assert batch.trained.any(1).all()
        torch.testing.assert_close(batch.behaviour, read(named.model, batch, 1.0, 2), rtol=0, atol=1e-4)
        assert float(batch.mismatch.max()) < 1e-4
    assert len([line for line in said if "nats a token" in line]) == 1


def test_an_older_model_is_measured_and_another_one_refused(tmp_path, base, url, named):
    moved = torch.Generator().manual_seed(0)
    for weight in named.model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=moved)
    batch = next(experience(tmp_path / "older", named, url=url, model="tiny").start(0))[0]
    torch.testing.assert_close(batch.behaviour, read(opened(base).model, batch, 1.0, 2), rtol=0, atol=1e-4)
    apart = (read(named.model, batch, 1.0, 2) - batch.behaviour)[batch.trained].abs().mean()
    assert float(batch.mismatch[0, 0]) == pytest.approx(float(apart), rel=1e-4)
    assert 0.01 < apart < 1
    for weight in named.model.parameters():
        weight.data += torch.randn(weight.shape, generator=moved)
    with pytest.raises(UsageProblem, match="nats a token from the model in training, more than 1; load this run's"):
        next(experience(tmp_path / "other", named, url=url, model="tiny").start(0))


STOPS = ("a", "e", "i", "o")


def test_episodes_of_several_turns_are_those_of_the_sampler_here(tmp_path, url, named):
    """Each turn's prompt is what the engine itself has said before, as tokens."""
    here = experience(tmp_path / "here", named, around=Greeting(), stop=STOPS)
    there = experience(tmp_path / "there", named, around=Greeting(), stop=STOPS, url=url, model="tiny")
    told = 0
    for (one, _), (other, _) in zip(here.start(0), there.start(0), strict=False):
        for name in ("token", "trained", "answer", "score"):
            assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one.behaviour, other.behaviour, rtol=0, atol=1e-4)
        answer = other.answer >= 0
        told += int((answer & ~other.trained).sum()) - int(other.of.numel())
        if other.row.max() > 4:
            break
    assert told > 20  # what the environment said stands in the rows, and is not learned


class Greeting:
    """Is greeted as often as an answer ends by itself, then finds the episode worth 1."""

    def opening(self, record):
        return []

    def step(self, record, turns):
        return [{"role": "user", "content": "Hello."}] if len(turns) < 5 else 1.0


@pytest.fixture
def fake():
    """A server that says what it is told to."""
    told = {"code": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told["asked"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told["at"], told["key"] = self.path, self.headers.get("Authorization")
            self.send_response(told["code"])
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [told["choice"]]}).encode())

    with listening(Handler) as address:
        told["url"] = f"{address}/v1/"
        yield told


PROBS = {"token_logprobs": [-1.0, -2.0]}


def test_what_is_asked_and_where_an_answer_ends(fake, named, monkeypatch):
    monkeypatch.setenv("DIDACT_ROLLOUT_KEY", "secret")
    stop = named.renderer.stops[0]
    fake["choice"] = {"token_ids": [7, stop, 9], "logprobs": {"token_logprobs": [-1.0, -2.0, -3.0]}}
    ((out,),) = engine(fake["url"], named).answers([[5] * 60], [[Sampling(temperature=1, top_p=1, seed=8)]])
    assert (out.tokens, out.logprobs, out.reason) == ([7, stop], [-1.0, -2.0], "stop")
    assert out.text == named.renderer.decode([5, 7])[len(named.renderer.decode([5])) :]
    assert (fake["at"], fake["key"]) == ("/v1/completions", "Bearer secret")
    asked = {"model": "tiny", "prompt": [5] * 60, "max_tokens": 4, "temperature": 1, "top_p": 1, "top_k": -1, "seed": 8}
    assert asked.items() <= fake["asked"].items()
    assert fake["asked"]["return_token_ids"] is True


@pytest.mark.parametrize(
    ("choice", "wrong"),
    [
        ({"text": "x", "logprobs": PROBS}, "without token_ids; it must know return_token_ids"),
        ({"token_ids": [7, 8]}, "without token_logprobs; switch on"),
        ({"token_ids": [7, 8, 9], "logprobs": PROBS}, "without token_logprobs"),
        ({"token_ids": [7, 8], "logprobs": {"token_logprobs": [-1.0, None]}}, "without token_logprobs"),
    ],
)
def test_a_server_that_does_not_say_enough(fake, named, choice, wrong):
    fake["choice"] = choice
    with pytest.raises(ResourceProblem, match=wrong) as raised:
        engine(fake["url"], named).answers([[5]], [[Sampling(), Sampling()]])
    assert raised.value.code == 4


def test_a_server_that_refuses_or_is_not_there(fake, named, url):
    fake |= {"choice": {}, "code": 429}
    with pytest.raises(ResourceProblem, match=r"the engine answers 429.*; lower rollout\.slots"):
        engine(fake["url"], named).answers([[5]], [[Sampling()]])
    unknown = Engine(Rollout(url=url, model="other"), named.renderer.decode, named.renderer.stops, CONTEXT)
    with pytest.raises(ResourceProblem, match=r"the engine answers 404.*other"):
        unknown.answers([[5]], [[Sampling()]])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with pytest.raises(ResourceProblem, match=r"the engine cannot be asked .*; start the server") as raised:
            engine(nowhere, named).answers([[5]], [[Sampling()]])
    assert raised.value.code == 4


def test_being_asked_to_stop(url, named):
    with pytest.raises(Interrupted):
        engine(url, named).answers([[5]], [[Sampling()]], lambda: True)


@pytest.mark.parametrize("given", [{"url": "http://x/v1"}, {"model": "x"}])
def test_an_engine_has_a_model(given):
    with pytest.raises(ValueError, match="belong together"):
        Rollout(**given)
    with pytest.raises(ValueError, match="leave 'temperature' at 1"):
        Rollout(url="http://x/v1", model="x", temperature=0.5)
