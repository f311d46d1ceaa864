"""``didact serve`` as a person starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from didact.errors import ResourceProblem, UsageProblem
from didact.serve.command import Serving, _bound, _loopback, serve


def didact(*arguments, **environment):
    command = [sys.executable, "-m", "didact", "serve", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=heeding,
    )


def heeding():
    """A suite that runs in the background passes on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_serves_until_it_is_told_to_stop(endless, tmp_path, number, code):
    port = free_port()
    with didact(
        endless, "--port", port, "--context", 100_000, "--name", "ab", "--feedback", tmp_path / "f.sqlite"
    ) as process:
        try:
            for _ in range(600):
                try:
                    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
                    break
                except httpx.ConnectError:
                    assert process.poll() is None
                    time.sleep(0.1)
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 90_000, "stream": True}
            with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60) as got:
                lines = (line for line in got.iter_lines() if line)
                _ = next(lines), next(lines)
                process.send_signal(number)
                rest = [*lines]
            assert rest[-1] == "data: [DONE]"
            assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "stopping"
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert out == ""
    assert "serving ab at http://127.0.0.1" in err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_one_clear_line():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(ResourceProblem, match="this port is taken; choose another with --port"):
            serve("nothing", Serving(port=one.getsockname()[1]), print)


def test_nothing_small_waits_for_more_to_be_sent():
    """asyncio turns Nagle's delay off (40 ms of each small answer) for sockets that are named TCP alone."""
    with _bound("127.0.0.1", 0) as one:
        assert one.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "a.example"])
def test_beyond_this_machine_a_key_is_needed(host):
    assert not _loopback(host)
    with pytest.raises(UsageProblem, match="give --key-file"):
        serve("nothing", Serving(host=host), print)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host):
    assert _loopback(host)


@pytest.mark.parametrize("option", [{"adapters": ["x"]}, {"models": ["=x"]}])
def test_a_model_without_a_name(base, tmp_path, option):
    with pytest.raises(UsageProblem, match="NAME=FOLDER"):
        serve(str(base), Serving(port=0, feedback=str(tmp_path / "f.sqlite"), **option), lambda line: None)


def test_two_models_of_one_name(base):
    with pytest.raises(UsageProblem, match="two models are called"):
        serve(str(base), Serving(port=0, models=[f"model={base}"]), lambda line: None)


def test_a_new_key_is_printed_once(base, tmp_path):
    with didact(base, "--key-file", tmp_path / "keys", "--new-key", "ann") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("didact-")
    assert out.strip().split("-", 2)[2] not in (tmp_path / "keys").read_text()
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
