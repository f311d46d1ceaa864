"""What the server refuses, and what it lets go of."""

import contextlib
import json
import logging
import socket
import threading
import time

import httpx
import openai
import pytest

from didact.serve.keys import Keys, create
from tests.serve.running import running, served

HELLO = [{"role": "user", "content": "Which is red?"}]
LONG = {"model": "tiny", "messages": HELLO, "max_tokens": 90_000, "stream": True}


def in_shape(got):
    """An error as OpenAI writes it."""
    error = got.json()["error"]
    assert {*error} == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def wait_for(what, seconds=5.0):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


def begun(up, body=None):
    """A stream whose first text has come; the response is the caller's to close."""
    got = up.open.send(up.open.build_request("POST", f"{up.url}/v1/chat/completions", json=body or LONG), stream=True)
    lines = got.iter_lines()
    for line in lines:
        if '"content":"' in line and '"content":""' not in line:
            return got, lines
    raise AssertionError


@contextlib.contextmanager
def stuck(up):
    """The engine is in the middle of a step for as long as the block."""
    (lane,) = {model.lane for model in up.state.models.values()}
    step, inside, go = lane.decoder.step, threading.Event(), threading.Event()

    def waits():
        inside.set()
        assert go.wait(60)
        return step()

    lane.decoder.step = waits
    try:
        assert inside.wait(20)
        yield
    finally:
        lane.decoder.step = step
        go.set()


@pytest.fixture
def busy(endless):
    """A server with two slots and room for eight to wait, whose model never ends by itself."""
    with running(served(endless), slots=2, queue=8) as up, httpx.Client(timeout=20) as up.open:
        yield up


# --- nonsense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1e30}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": ["a"] * 5}, "stop.list[constrained-str]"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x.[key]"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"wings": 2}, "wings"),
        ({"model": "nobody"}, "model"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ],
)
def test_nonsense_is_refused_and_named(server, change, param):
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 4, **change}
    got = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
    assert got.status_code == (404 if param == "model" else 400)
    assert (in_shape(got)["param"] or "").split(".")[0] == param.split(".")[0]


def test_a_context_that_is_too_long_has_its_code(server):
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "red " * 500}])
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("PUT", "/v1/models", 405), ("GET", "/v1/models/nobody", 404), ("POST", "/", 405)],
)
def test_paths_that_are_not_are_errors_in_shape(server, method, path, status):
    got = httpx.request(method, server.url + path)
    assert got.status_code == status
    in_shape(got)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_request(server, body):
    got = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400
    in_shape(got)


HALF = "\ud800"


@pytest.mark.parametrize(
    "change",
    [
        {HALF: 1},
        {"messages": [{"role": "user", "content": HALF}]},
        {"messages": [{"role": "user", "content": "x", HALF: HALF}]},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {HALF: HALF}}}]},
        {"stop": HALF},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": HALF}}}},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": '"\\ud800"'}}]}]},
        {"temperature": 1e-320},
        {"temperature": 1e-5, "repetition_penalty": 0.1},
        {"top_p": 1e-300, "temperature": 2},
        {"min_p": 1, "top_k": 1 << 20, "temperature": 2},
        {"logit_bias": {"999999999": 100, "5": -100}},
    ],
)
def test_what_is_hard_to_swallow_breaks_nothing(server, change):
    body = json.dumps({"messages": HELLO, "max_tokens": 2, **change})
    headers = {"content-type": "application/json"}
    got = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert got.status_code in (200, 400)
    assert got.status_code == 200 or in_shape(got)
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert not server.state.engine.broken


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit(server, declared):
    body = json.dumps({"messages": [{"role": "user", "content": "x" * (1 << 20)}]}).encode()
    content = body if declared else iter([body[i : i + 65536] for i in range(0, len(body), 65536)])
    got = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert got.status_code == 413
    assert in_shape(got)["code"] == "request_too_large"


# --- the queue ---------------------------------------------------------------------------------------------


def test_a_client_that_leaves_frees_its_slot(busy):
    (lane,) = {model.lane for model in busy.state.models.values()}
    for _ in range(15):
        pair = [begun(busy), begun(busy)]
        assert len(busy.state.engine.running) == 2
        for got, _ in pair:
            got.close()
        wait_for(lambda: not lane.decoder.rows, 1.0)
    assert not lane.rows
    assert lane.decoder.cache.slots == 0


@pytest.mark.slow
def test_a_thousand_streams_cut_midway(busy):
    for _ in range(500):
        pair = [begun(busy), begun(busy)]
        for got, _ in pair:
            got.close()
        wait_for(lambda: not busy.state.engine.running, 1.0)
    assert httpx.get(f"{busy.url}/health").status_code == 200


def test_a_client_that_waits_and_leaves_frees_its_slot_too(busy):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{busy.url}/v1/chat/completions", json={**LONG, "stream": False}, timeout=0.5)
    wait_for(lambda: not busy.state.engine.running and not busy.state.engine.waiting, 1.0)


def test_a_full_queue_is_told_at_once(busy):
    """How soon is measured by ``python -m benchmarks.serve``; here the engine is held, and the answer still comes."""
    held = [begun(busy), begun(busy)]
    asked = {**LONG, "n": 8}
    with busy.open.stream("POST", f"{busy.url}/v1/chat/completions", json=asked) as waits:
        wait_for(lambda: len(busy.state.engine.waiting) == 8)
        with stuck(busy):
            got = httpx.post(f"{busy.url}/v1/chat/completions", json=LONG, timeout=20)
        assert (got.status_code, in_shape(got)["code"]) == (429, "queue_full")
        assert 1 <= int(got.headers["Retry-After"]) <= 60
        assert httpx.get(f"{busy.url}/health").status_code == 200  # a full queue is no illness
        waits.close()
    for stream, _ in held:
        stream.close()
    wait_for(lambda: not busy.state.engine.running and not busy.state.engine.waiting, 1.0)
    text = httpx.get(f"{busy.url}/metrics").text
    assert 'didact_requests_total{path="/v1/chat/completions",status="429"} 1.0' in text
    assert "didact_running 0.0" in text


def test_a_stopped_server_ends_its_streams_properly(busy):
    got, lines = begun(busy)
    busy.state.engine.stop()
    rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "stopping"
    got.close()
    late = httpx.post(f"{busy.url}/v1/chat/completions", json=LONG)
    assert (late.status_code, in_shape(late)["code"]) == (503, "stopping")


def test_an_engine_that_fails_says_so_and_nothing_hangs(busy, caplog):
    got, lines = begun(busy)
    (lane,) = {model.lane for model in busy.state.models.values()}

    def fails():
        raise RuntimeError("the device is gone")

    with caplog.at_level(logging.ERROR, "didact.serve"):
        lane.decoder.step = fails
        rest = [line for line in lines if line]
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "engine_failed"
        for _ in range(3):
            late = httpx.post(f"{busy.url}/v1/chat/completions", json={**LONG, "stream": False})
            assert (late.status_code, in_shape(late)["code"]) == (500, "engine_failed")
        sick = httpx.get(f"{busy.url}/health")
        assert (sick.status_code, in_shape(sick)["code"]) == (503, "unhealthy")
    assert len([record for record in caplog.records if record.exc_info]) == 1
    got.close()


# --- who may ask -------------------------------------------------------------------------------------------


def test_keys(base, tmp_path):
    file = tmp_path / "keys"
    key, other = create(file, "ann"), create(file, "ben")
    assert key.split("-")[2] not in file.read_text()
    with running(served(base), keys=Keys(file)) as up:
        for given in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {key}x"}, {"Authorization": key}):
            got = httpx.post(f"{up.url}/v1/chat/completions", json={"messages": HELLO}, headers=given)
            assert (got.status_code, in_shape(got)["code"]) == (401, "invalid_api_key")
            assert httpx.get(f"{up.url}/metrics", headers=given).status_code == 401
        for right in (key, other, key):
            assert openai.OpenAI(base_url=f"{up.url}/v1", api_key=right).models.list().data
        assert httpx.get(f"{up.url}/health").status_code == 200
        assert httpx.get(f"{up.url}/").status_code == 200


@pytest.mark.parametrize("line", ["short", "a zz zz name"])
def test_a_file_of_keys_that_is_none(tmp_path, line):
    from didact.errors import DataProblem

    (tmp_path / "keys").write_text(line)
    with pytest.raises(DataProblem, match="keys:1"):
        Keys(tmp_path / "keys")


def test_other_origins_may_not_ask_unless_told(base):
    with running(served(base), cors=("https://a.example",)) as up:
        asked = {"messages": HELLO, "max_tokens": 2}
        path = f"{up.url}/v1/chat/completions"
        other = httpx.post(path, json=asked, headers={"Origin": "https://b.example"})
        assert (other.status_code, in_shape(other)["code"]) == (403, "cors")
        assert "access-control-allow-origin" not in other.headers
        before = {"Access-Control-Request-Method": "POST", "Origin": "https://a.example"}
        assert httpx.options(path, headers=before).headers["access-control-allow-origin"] == "https://a.example"
        allowed = httpx.post(path, json=asked, headers={"Origin": "https://a.example"})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert httpx.post(path, json=asked, headers={"Origin": up.url}).status_code == 200
        assert httpx.options(path, headers={**before, "Origin": "https://b.example"}).status_code == 403


def test_a_name_that_was_bent_to_this_machine_is_not_answered(base):
    with running(served(base), hosts=("localhost", "127.0.0.1")) as up:
        got = httpx.get(f"{up.url}/v1/models", headers={"Host": "evil.example:80"})
        assert (got.status_code, in_shape(got)["code"]) == (403, "host_not_allowed")
        assert httpx.get(f"http://localhost:{up.port}/v1/models").status_code == 200


def test_what_every_response_carries(server):
    page = httpx.get(server.url)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert httpx.get(f"{server.url}/style.css").status_code == 200


# --- what is not said --------------------------------------------------------------------------------------

SECRET = "zebra-4711-parsley"


def test_no_log_and_no_metric_holds_a_prompt(base, caplog):
    with caplog.at_level(logging.DEBUG), running(served(base)) as up:
        said = [{"role": "user", "content": SECRET}]
        for body in (
            {"messages": said, "max_tokens": 3},
            {"messages": said, "max_tokens": 3, "stream": True},
            {"messages": said, SECRET: 1},
            {"messages": [{"role": SECRET}]},
        ):
            httpx.post(f"{up.url}/v1/chat/completions", json=body)
        httpx.post(f"{up.url}/v1/completions", json={"prompt": SECRET, "echo": True})
        httpx.get(f"{up.url}/{SECRET}?q={SECRET}")
        assert SECRET not in httpx.get(f"{up.url}/metrics").text
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert any("/v1/chat/completions" in line for line in ours)
    assert SECRET not in "\n".join(ours)


def test_a_client_that_sends_half_a_request_harms_nobody(server):
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    half.close()
    assert threading.active_count() < 100
    assert httpx.get(f"{server.url}/health").status_code == 200
