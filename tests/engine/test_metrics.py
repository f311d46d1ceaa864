"""metrics.jsonl: exact numbers, whole lines, no step twice."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.engine import metrics
from didact.engine.metrics import Metrics, read
from didact.errors import DataProblem, ResourceProblem


@given(loss=st.floats(), rate=st.floats(), count=st.integers(0, 2**53))
def test_numbers_come_back_bit_for_bit(tmp_path_factory, loss, rate, count):
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    with Metrics(path) as log:
        log.write(3, loss=loss, learning_rate=rate, trained_tokens=count)
    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["step"] == 3
    (record,) = read(path)
    assert record["loss"].hex() == record["loss_hex"] == loss.hex()
    assert record["learning_rate"].hex() == rate.hex()
    assert record["trained_tokens"] == count
    assert "nonfinite" not in record


def test_a_line_is_one_write_and_readable_at_once(tmp_path, monkeypatch):
    writes, write = [], os.write
    monkeypatch.setattr(metrics.os, "write", lambda file, line: writes.append(line) or write(file, line))
    log = Metrics(tmp_path / "metrics.jsonl")
    log.write(1, loss=0.1)
    assert read(log.path) == [{"step": 1, "loss": 0.1, "loss_hex": (0.1).hex()}]
    assert len(writes) == 1
    assert writes[0].endswith(b"\n")


@pytest.mark.parametrize("torn", [b'{"st', b"{", b"\0\0\0", b'{"step": 3, "loss": 1.0}'])
def test_a_torn_last_line_is_dropped_on_opening(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n' + torn)
    assert [record["step"] for record in read(path)] == [1, 2]
    with Metrics(path) as log:
        log.write(3)
    assert [record["step"] for record in read(path)] == [1, 2, 3]


def test_a_resumed_run_has_no_step_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as log:
        for step in range(1, 8):
            log.write(step, loss=step / 7)
    before = read(path)
    with Metrics(path) as log:
        log.truncate_after(4)
        for step in range(5, 8):
            log.write(step, loss=step / 7)
    assert read(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_killed_while_truncating_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    log = Metrics(tmp_path / "metrics.jsonl")
    for step in range(5):
        log.write(step)
    old = log.path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.truncate_after(2)
    assert log.path.read_bytes() == old


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1}\nnonsense\n{"step":2}\n')
    with pytest.raises(DataProblem, match=r"metrics\.jsonl:2: not a line of metrics"):
        read(path)
    path.write_text('{"loss":1}\n')
    with pytest.raises(DataProblem, match=r":1: a line of metrics without a step"):
        read(path)


def test_a_full_disk_is_a_resource_problem_and_tears_nothing(tmp_path, monkeypatch):
    log = Metrics(tmp_path / "metrics.jsonl")
    log.write(1)
    write = os.write
    monkeypatch.setattr(metrics.os, "write", lambda file, line: write(file, line[:5]))
    with pytest.raises(ResourceProblem, match="free some disk space"):
        log.write(2)
    assert log.path.read_bytes() == b'{"step":1}\n'


def test_the_null_device_takes_the_metrics_of_other_processes():
    with Metrics(Path(os.devnull)) as log:
        log.write(1, loss=0.0)
    assert read(Path(os.devnull)) == []


WRITER = """
import sys
from pathlib import Path
from didact.engine.metrics import Metrics
log = Metrics(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    log.write(step, loss=1 / step)
    if step == 50: print("go", flush=True)
"""


def test_killed_at_any_moment_every_line_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"go\n"
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert path.read_bytes().endswith(b"\n")
        assert all(math.isfinite(record["loss"]) for record in read(path))


def test_a_file_size_limit_is_a_resource_problem(tmp_path):
    path = tmp_path / "metrics.jsonl"
    limited = subprocess.run(
        [sys.executable, "-c", WRITER, path],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
        capture_output=True,
        text=True,
    )
    assert "ResourceProblem" in limited.stderr
    assert read(path)[-1]["step"] > 10
