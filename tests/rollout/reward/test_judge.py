"""Judges: in both orders, by their own chances, here and behind a URL."""

import json
import math
from http.server import BaseHTTPRequestHandler

import pytest

from didact.errors import DataProblem, ResourceProblem
from didact.rollout.reward.base import Answered, scores
from didact.rollout.reward.judge import Judge, Judging, graded, local, preferred, remote
from tests.listening import listening


def said(text: str, **record: str) -> Answered:
    return Answered(({"role": "user", "content": "Which?"},), text, record, where="d:1")


def test_a_grade_is_the_mean_under_the_judges_chances():
    asked = []

    def ask(messages, verdicts):
        asked.append(messages[0]["content"])
        return [0, 0, 0.5, 0, 0.5]

    assert graded(ask, "Be kind.", "Which?", "That.") == pytest.approx(0.75)
    assert asked[0].startswith("Be kind.\n")
    assert "--- answer ---\nThat.\n" in asked[0]


def test_a_judge_that_likes_the_first_place_says_nothing():
    assert preferred(lambda messages, verdicts: [0.9, 0.1], "", "?", "one", "other") == pytest.approx(0.5)

    def honest(messages, verdicts):
        first = messages[0]["content"].index("good") < messages[0]["content"].index("bad")
        return [0.8, 0.2] if first else [0.2, 0.8]

    reward = Judging(Judge(model="x", rubric="Judge.", how="compare", against="other"), honest)
    assert scores(reward, [said("good", other="bad"), said("bad", other="good")]) == pytest.approx([0.8, 0.2])


def test_a_judge_here_says_the_chances_of_its_next_token():
    from didact.text.render import Renderer
    from didact.text.tokenizer import train
    from tests.toy import toy_model

    renderer = Renderer(train(["Which answer is better? A B 1 2 3 4 5"] * 3, 300))
    model = toy_model(vocab_size=len(renderer.tokenizer)).eval()
    ask = local(model, renderer)
    messages = [{"role": "user", "content": "A or B?"}]
    chances = ask(messages, ("A", "B"))
    import torch

    net = model.net
    net.set_attn_implementation("eager")
    logits = net(input_ids=torch.tensor([renderer.prompt(messages)])).logits[0, -1]
    ids = [renderer.tokenizer.encode(one, add_special_tokens=False)[0] for one in ("A", "B")]
    assert chances == pytest.approx(logits[ids].softmax(0).tolist(), abs=1e-5)


@pytest.fixture
def server():
    """An OpenAI-compatible server that says what it is told to."""
    told = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told["asked"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told["key"] = self.headers.get("Authorization")
            body = json.dumps({"choices": [told["choice"]]}).encode()
            self.send_response(told.get("code", 200))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as address:
        told["url"] = f"{address}/v1"
        yield told


def test_a_judge_behind_a_url(server, monkeypatch):
    monkeypatch.setenv("DIDACT_JUDGE_KEY", "secret")
    ask = remote(server["url"], "big")
    named = [{"token": "A", "logprob": math.log(0.3)}, {"token": " A", "logprob": math.log(0.3)}]
    named += [{"token": "B", "logprob": math.log(0.2)}, {"token": "C", "logprob": math.log(0.1)}]
    server["choice"] = {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": named}]}}
    assert ask([{"role": "user", "content": "?"}], ("A", "B")) == pytest.approx([0.75, 0.25])
    assert server["asked"]["model"] == "big"
    assert server["key"] == "Bearer secret"
    server["choice"] = {"message": {"content": "B"}}
    assert ask([], ("A", "B")) == [0, 1]
    server["choice"] = {"message": {"content": "Both"}}
    reward = Judge(model="big", url=server["url"]).open(None)
    with pytest.raises(DataProblem, match="d:1: the judge big said 'Both' in place of 1 or 2"):
        scores(reward, [said("a")])
    server["code"] = 500
    with pytest.raises(ResourceProblem, match="the judge answers 500"):
        scores(reward, [said("a")])
    with pytest.raises(ResourceProblem, match="cannot be asked"):
        remote("http://127.0.0.1:9/v1", "big")([], ("A",))


def test_what_is_compared_with_is_said():
    for wrong in ({"how": "compare"}, {"against": "other"}):
        with pytest.raises(ValueError, match="belong together"):
            Judge(model="x", **wrong)
