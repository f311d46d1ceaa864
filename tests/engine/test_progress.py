"""The live line on a terminal, the plain line elsewhere, and talk that never stops a run."""

import fcntl
import io
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from didact.engine.meter import Reading
from didact.engine.progress import Progress, duration, energy


def reading(step=120, **changes):
    known = dict(seconds=60.0, tokens_per_second=1204.3, seconds_left=192.0, share=0.412, memory=1, energy_wh=0.4242)
    return Reading(**{"step": step, "energy_source": "estimate: x"} | known | changes)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "120")


def visible(text):
    """The last line as it stands on the screen."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").rstrip("\n").split("\n")[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (187, "3m 07s"), (7500, "2h 05m"), (90000, "1d 01h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("watt_hours", "text"),
    [
        (0, "0.000 Wh"),
        (0.0042, "0.004 Wh"),
        (0.4242, "0.424 Wh"),
        (42.42, "42.4 Wh"),
        (424.2, "424 Wh"),
        (4242, "4.24 kWh"),
    ],
)
def test_energy(watt_hours, text):
    assert energy(watt_hours, estimated=False) == text
    assert energy(watt_hours, estimated=True) == "~" + text


def test_without_a_terminal_a_plain_line_every_few_seconds():
    clock, stream = Clock(), io.StringIO()
    with Progress("pretrain", 400, stream=stream, clock=clock) as progress:
        for step in range(1, 26):
            clock.now += 1
            progress.update(step, 3.0, reading(step))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/400", "11/400", "21/400", "25/400"]
    assert lines[-1] == "pretrain  25/400  loss 3  3m 12s left  1,204 tok/s  41% of peak  ~0.424 Wh"
    assert "\x1b" not in stream.getvalue()


def test_the_last_line_is_not_said_twice():
    stream = io.StringIO()
    with Progress("pretrain", 1, stream=stream, clock=Clock()) as progress:
        progress.update(1, 3.0, reading())
    assert len(stream.getvalue().splitlines()) == 1


def test_the_live_line_holds_everything():
    stream = Terminal()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.update(120, 3.21, reading())
    line = visible(stream.getvalue())
    assert re.fullmatch(
        r"pretrain  ━{24}  120/400  loss 3\.21  3m 12s left  1,204 tok/s  41% of peak  ~0\.424 Wh *", line
    )


@pytest.mark.parametrize("columns", [*range(1, 60), 79, 80, 200])
def test_the_line_never_is_wider_than_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.update(120, 3.21, reading())
    line = visible(stream.getvalue())
    assert len(line) <= columns
    if columns >= 30:
        assert "120/400  loss 3.21" in line


def test_a_line_of_eighty_columns_holds_every_figure(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.update(120, 3.214, reading())
    assert visible(stream.getvalue()).rstrip().endswith("41% of peak  ~0.424 Wh")


def test_unknown_figures_are_left_out():
    stream = io.StringIO()
    with Progress("score", None, stream=stream, clock=Clock()) as progress:
        progress.update(7, 3.0, reading(7, share=None, seconds_left=None, energy_source="measured"))
    assert stream.getvalue() == "score  step 7  loss 3  1,204 tok/s  0.424 Wh\n"


def test_the_loss_is_smoothed_and_a_broken_one_shows_without_breaking_the_mean():
    clock, stream = Clock(), io.StringIO()
    with Progress("pretrain", 9, stream=stream, clock=clock, every=0.0) as progress:
        for step, loss in enumerate([2.0, 4.0, math.nan, 2.0], 1):
            progress.update(step, loss, reading(step))
    losses = [re.search(r"loss (\S+)", line)[1] for line in stream.getvalue().splitlines()]
    mean = (0.95 * 2 * 0.05 + 4 * 0.05) / (0.95 * 0.05 + 0.05)
    assert losses[:3] == ["2", f"{mean:.4g}", "nan"]
    assert 2 < float(losses[3]) < mean


def test_say_stands_above_the_live_line_and_cannot_steer_the_terminal():
    stream = Terminal()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.update(120, 3.21, reading())
        progress.say("step 7: loss is nan; \x1b[2Jlower [red]learning_rate[/]")
    output = stream.getvalue()
    assert "\x1b[2J" not in output
    assert "\ufffd[2Jlower [red]learning_rate[/]\n" in output
    assert visible(output).startswith("pretrain")


def test_say_without_a_terminal_is_a_line():
    stream = io.StringIO()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.say("a " * 200 + "z")
    assert stream.getvalue() == "a " * 200 + "z\n"


def test_what_others_print_to_stderr_stands_above_the_line_and_stdout_is_left_alone(monkeypatch):
    stream, data = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", data)
    with Progress("pretrain", 400, clock=Clock()) as progress:
        progress.update(120, 3.21, reading())
        print("a warning", file=sys.stderr)
        print("an answer")
    assert "a warning\n" in stream.getvalue()
    assert visible(stream.getvalue()).startswith("pretrain")
    assert data.getvalue() == "an answer\n"
    assert sys.stderr is stream


def test_no_color_is_respected(monkeypatch):
    def colours():
        stream = Terminal()
        with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
            progress.update(120, 3.21, reading())
        return re.findall(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", stream.getvalue())

    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(monkeypatch, name):
    monkeypatch.setenv("TERM", name)
    stream = Terminal()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.update(120, 3.21, reading())
    assert stream.getvalue().startswith("pretrain  120/400")
    assert "\x1b" not in stream.getvalue()


def test_a_log_file_never_gets_a_live_line_whatever_the_environment_forces(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    stream = io.StringIO()
    with Progress("pretrain", 400, stream=stream, clock=Clock()) as progress:
        progress.update(120, 3.21, reading())
        progress.say("hello")
    assert "\x1b" not in stream.getvalue()


def test_an_ascii_terminal_gets_an_ascii_bar():
    binary = io.BytesIO()
    stream = io.TextIOWrapper(binary, encoding="ascii")
    stream.isatty = lambda: True
    with Progress("vortraining-ü", 400, stream=stream, clock=Clock()) as progress:
        progress.update(200, 3.21, reading())
    assert re.search(rb"#{10,}.*\.{10,}", binary.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_closed_pipe_ends_the_talk_and_not_the_work(terminal):
    listener, speaker = os.pipe()
    stream = os.fdopen(speaker, "w", buffering=1)
    stream.isatty = lambda: terminal
    with Progress("pretrain", 400, stream=stream, clock=Clock(), every=0.0) as progress:
        progress.update(1, 3.0, reading())
        os.close(listener)
        for step in range(2, 50):
            progress.update(step, 3.0, reading())
            progress.say("still here")
    assert progress.stream.stream is None
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_closed_stream_is_silence():
    stream = io.StringIO()
    stream.close()
    with Progress("pretrain", 400, stream=stream) as progress:
        progress.update(1, 3.0, reading())
        progress.say("nobody hears")


def test_quiet_says_nothing(capsys):
    with Progress("pretrain", 400, quiet=True) as progress:
        progress.update(1, 3.0, reading())
        progress.say("hush")
    assert capsys.readouterr() == ("", "")


def test_an_error_passes_through_and_the_terminal_is_given_back():
    stream = Terminal()

    def fails():
        with Progress("pretrain", 400, stream=stream) as progress:
            progress.update(1, 3.0, reading())
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fails()
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l") >= 0  # the cursor is back


def test_drawing_is_rare_however_fast_the_steps():
    clock, stream = Clock(), Terminal()
    with Progress("pretrain", 10_000, stream=stream, clock=clock) as progress:
        for step in range(1, 1001):
            clock.now += 0.001  # a second of steps of a millisecond
            progress.update(step, 3.0, reading(step))
        drawn = stream.getvalue().count("tok/s")
    assert 5 <= drawn <= 10


TALK = """
import sys, test_progress
from didact.engine.progress import Progress
with Progress("pretrain", 3, clock=iter(range(100)).__next__) as progress:
    for step in (1, 2, 3):
        progress.update(step, 3.0, test_progress.reading(step))
        print(step)
"""


def test_on_a_real_terminal_of_forty_columns():
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    run = subprocess.Popen(
        [sys.executable, "-c", TALK], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower, env=environment
    )
    assert run.communicate()[0] == b"1\n2\n3\n"
    os.close(follower)
    line = visible(os.read(leader, 65536).decode())
    assert line.rstrip() == "pretrain  3/3  loss 3  3m 12s left"
    os.close(leader)
