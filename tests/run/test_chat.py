"""Talking with a model: what is said, where it goes, and what happens when somebody has had enough."""

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from didact.errors import DataProblem, UsageProblem
from didact.rollout.diffusion import VEIL
from didact.rollout.settings import Sampling
from didact.run.chat import Chat, _settle, chat_with, converse
from didact.run.named import locate, open_model
from tests.model.folders import tiny, write_gguf
from tests.run.speakers import chain, speaker

ENDLESS = {"\n": "a", "a": "b", "b": "a"}
SAMPLING = Sampling(max_new_tokens=32)


@pytest.fixture(scope="session")
def yes(tmp_path_factory) -> Path:
    return speaker(tmp_path_factory.mktemp("yes") / "model", chain("Yes, I do!"[:3] + "!"))


@pytest.fixture(scope="session")
def endless(tmp_path_factory) -> Path:
    return speaker(tmp_path_factory.mktemp("endless") / "model", ENDLESS, positions=100_000)


@pytest.fixture(scope="session")
def unmasks(tmp_path_factory) -> Path:
    """Written left to right by blocks of one, each token predicted by the one before it."""
    folder = speaker(tmp_path_factory.mktemp("unmasks") / "model", chain("Yes, I do!"[:3] + "!"))
    config = json.loads((folder / "config.json").read_text())
    way = {"mask": config["pad_token_id"], "shift": True, "block": None}
    (folder / "config.json").write_text(json.dumps(config | {"didact": {"text_diffusion": way}}))
    return folder


def talk(folder: Path, said: list[str] | None = None, system: str | None = None, **sampling) -> Chat:
    heard: list[str] = [] if said is None else said
    way = SAMPLING.model_copy(update=sampling)
    return Chat(open_model(str(folder), "cpu", heard.append), system, way, heard.append)


# --- one answer --------------------------------------------------------------------------------------------


def test_one_answer_on_stdout_and_nothing_else(yes, capfd):
    chat_with(str(yes), "Do you?", None, SAMPLING, "cpu", lambda line: print(line, file=sys.stderr))
    assert capfd.readouterr().out == "Yes!\n"


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(yes, prompt):
    with pytest.raises(UsageProblem, match="prompt is empty"):
        chat_with(str(yes), prompt, None, SAMPLING, "cpu", print)


def test_an_answer_settles(unmasks):
    seen: list[str] = []
    pieces: list[str] = []
    chat = talk(unmasks, max_new_tokens=6, block=1, temperature=0.0)
    assert chat.answer("Do you?", pieces.append, seen.append) == "Yes!"
    assert pieces == ["Yes!"]
    assert seen == ["Y" + 5 * VEIL, "Ye" + 4 * VEIL, "Yes" + 3 * VEIL, "Yes!" + 2 * VEIL, ""]
    assert chat.turns[-1] == {"role": "assistant", "content": "Yes!"}


def test_without_a_terminal_only_the_answer_is_printed(unmasks, capfd):
    way = SAMPLING.model_copy(update={"max_new_tokens": 6, "block": 1, "temperature": 0.0})
    chat_with(str(unmasks), "Do you?", None, way, "cpu", lambda line: print(line, file=sys.stderr))
    assert capfd.readouterr().out == "Yes!\n"


def test_an_answer_under_way_fits_the_line(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "21")
    _settle("a\nb" + VEIL)
    _settle(30 * "x" + 5 * VEIL + 30 * "y")
    shown = capfd.readouterr().out.split("\r\x1b[K")
    assert shown == ["", "a b" + VEIL, 10 * "x" + 5 * VEIL + 5 * "y"]


def test_steps_are_for_those_who_unmask(yes):
    with pytest.raises(UsageProblem, match="left to right"):
        talk(yes, steps=4)


def test_pieces_join_to_the_answer(yes):
    pieces: list[str] = []
    chat = talk(yes)
    assert chat.answer("Do you?", pieces.append) == "".join(pieces) == "Yes!"
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant"]


def test_special_tokens_are_not_shown(tmp_path):
    folder = speaker(
        tmp_path / "m", {"\n": "o", "o": "<|endoftext|>", "<|endoftext|>": "<|im_start|>", "<|im_start|>": "k"}
    )
    assert talk(folder).answer("?", lambda text: None) == "ok"


def test_generation_settings_stop_too(tmp_path):
    folder = speaker(tmp_path / "m", ENDLESS | {"a": "<|endoftext|>"}, stops=("<|endoftext|>", "<|im_end|>"))
    chat = talk(folder)
    assert chat.answer("?", lambda text: None) == "a"
    assert open_model(str(folder), "cpu", print).renderer.stops == (0, 2)


def test_the_space_before_an_answer_is_not_shown(tmp_path):
    folder = speaker(tmp_path / "m", {"\n": " ", " ": "h", "h": "i"})
    assert talk(folder).answer("?", lambda text: None) == "hi"


# --- a conversation ----------------------------------------------------------------------------------------


def test_the_model_sees_the_conversation_so_far(yes):
    chat = talk(yes, system="Be brief.")
    chat.answer("One?", lambda text: None)
    chat.answer("Two?", lambda text: None)
    text = chat.renderer.decode(chat._prompt())
    for part in ("Be brief.", "One?", "Yes!", "Two?"):
        assert part in text
    chat.clear()
    chat.answer("Three?", lambda text: None)
    text = chat.renderer.decode(chat._prompt())
    assert "One?" not in text
    assert "Be brief." in text


def test_a_full_context_forgets_the_oldest_and_says_so(tmp_path):
    folder, said = speaker(tmp_path / "m", chain("Yes!"), positions=256), []
    chat = talk(folder, said, system="Be brief.")
    for number in range(5):
        assert chat.answer(f"{number}" * 40, lambda text: None) == "Yes!"
    text = chat.renderer.decode(chat._prompt())
    assert "0000" not in text
    assert "Be brief." in text
    assert "4444" in text
    assert said[0].startswith("(the context of 256 tokens is full: the oldest 2 messages are forgotten")
    assert chat.turns[0]["role"] == "user"


def test_a_message_too_long_is_refused_and_leaves_the_rest(tmp_path):
    chat = talk(speaker(tmp_path / "m", chain("Yes!"), positions=128))
    chat.answer("One?", lambda text: None)
    with pytest.raises(UsageProblem, match="shorten it"):
        chat.answer("x" * 200, lambda text: None)
    assert [turn["content"] for turn in chat.turns] == ["One?", "Yes!"]


def test_a_stopped_answer_joins_as_far_as_it_came(endless):
    chat = talk(endless)

    def stop(text):
        stop.heard += text
        if len(stop.heard) == 3:
            raise KeyboardInterrupt

    stop.heard = ""
    with pytest.raises(KeyboardInterrupt):
        chat.answer("?", stop)
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant"]
    assert chat.turns[1]["content"] == "ab"


def test_a_message_without_an_answer_is_forgotten(yes):
    chat = talk(yes)

    def stop(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.answer("?", stop)
    assert chat.turns == []


def test_the_same_question_is_not_answered_with_the_same_dice(endless):
    chat = talk(endless)
    chat.answer("?", lambda text: None)
    assert chat.sampling.seed == SAMPLING.seed + 1


# --- lines in, lines out -----------------------------------------------------------------------------------


def test_piped_lines_are_answered_one_by_one(yes, monkeypatch, capsys):
    said: list[str] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO("One?\n\n/clear\n/help\n/etc/passwd is what?\nTwo?\n/quit\nThree?\n"))
    chat = talk(yes, said)
    converse(chat, said.append)
    assert capsys.readouterr().out == "Yes!\n" * 3
    assert [turn["content"] for turn in chat.turns if turn["role"] == "user"] == ["/etc/passwd is what?", "Two?"]
    assert any("no command /help" in line for line in said)


def test_a_mistake_does_not_end_the_conversation(tmp_path, monkeypatch, capsys):
    said: list[str] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 200 + "\nOne?\n"))
    converse(talk(speaker(tmp_path / "m", chain("Yes!"), positions=128), said), said.append)
    assert capsys.readouterr().out == "Yes!\n"
    assert any("shorten it" in line for line in said)


class Terminal:
    """``didact chat`` on a terminal of its own."""

    def __init__(self, *arguments: str):
        pid, self.handle = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs tests in the background ignores it
            os.execve(sys.executable, [sys.executable, "-m", "didact", *arguments], os.environ | {"TERM": "dumb"})
        self.pid, self.seen = pid, ""

    def wait_for(self, text: str, seconds: float = 120, pressing: str = "") -> str:
        """What appeared up to and with ``text``, since the last call; ``pressing`` a key until then."""
        until = time.monotonic() + seconds
        self.send(pressing)
        while text not in self.seen:
            assert time.monotonic() < until, f"{text!r} never came; there was {self.seen!r}"
            if select.select([self.handle], [], [], 5)[0]:
                self.seen += os.read(self.handle, 4096).decode(errors="replace")
            else:
                self.send(pressing)
        before, found, self.seen = self.seen.partition(text)
        return before + found

    def send(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def ended(self) -> int:
        """The exit code."""
        try:
            while os.read(self.handle, 4096):
                pass
        except OSError:  # how a terminal says that the other side has gone
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_in_a_terminal_ctrl_c_stops_an_answer_and_a_second_one_ends(endless):
    terminal = Terminal("chat", str(endless), "--max-new-tokens", "90000", "--device", "cpu")
    terminal.wait_for("Ctrl-C stops an answer")
    terminal.wait_for("> ")
    terminal.send("Hello\n")
    terminal.wait_for("ababab")
    terminal.send("\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.send("/clear\n")
    terminal.wait_for("(forgotten)")
    terminal.wait_for("> ")
    # Python's own line reader misses a signal that comes after it shows the prompt and before it waits.
    terminal.wait_for("interrupted", pressing="\x03")
    assert terminal.ended() == 130


def test_in_a_terminal_the_end_of_input_ends_well(yes):
    terminal = Terminal("chat", str(yes), "--device", "cpu")
    terminal.wait_for("> ")
    terminal.send("Hello\n")
    terminal.wait_for("Yes!")
    terminal.wait_for("> ")
    terminal.send("\x04")
    assert terminal.ended() == 0


def test_a_reader_that_leaves_is_no_mistake(endless):
    command = [sys.executable, "-m", "didact", "chat", str(endless), "--prompt", "?", "--max-new-tokens", "90000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(3)
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141
    assert error == b""


# --- which model -------------------------------------------------------------------------------------------


def test_a_run_a_folder_and_a_gguf_file(yes, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "r"
    shutil.copytree(yes, run / "stages" / "0-finetune-0" / "model")
    (run / "recipe.yaml").write_text("name: r\n")
    (run / "model.path").write_text("stages/0-finetune-0/model\n")
    gguf = write_gguf(tmp_path / "tiny.gguf", tiny())
    assert locate(str(run), print) == run / "stages" / "0-finetune-0" / "model"
    assert talk(run).answer("?", lambda text: None) == "Yes!"
    assert talk(yes).answer("?", lambda text: None) == "Yes!"
    assert (locate(str(gguf), print) / "model.safetensors").is_file()
    monkeypatch.chdir(tmp_path)
    assert talk(Path("runs/r")).answer("?", lambda text: None) == "Yes!"


def test_what_is_not_there_is_one_line_and_never_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    with pytest.raises(DataProblem, match=r"runs/quickstrat: no such folder or file; did you mean runs/quickstart\?"):
        locate("runs/quickstrat", print)
    with pytest.raises(DataProblem, match="no such folder or file"):
        locate(str(tmp_path / "a" / "b"), print)


def test_a_run_that_has_no_model_yet_says_what_to_do(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.yaml").write_text("name: r\n")
    with pytest.raises(UsageProblem, match=r"left no model yet; finish it with `didact run"):
        locate(str(tmp_path / "r"), print)
