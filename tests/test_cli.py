"""The command line: verbs, exit codes, one line a mistake, and how little it loads to say so."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from didact import cli, errors
from didact.errors import Problem
from tests.run.speakers import chain, speaker

VERBS = ["run", "inspect", "chat", "doctor", "init", "eval", "index", "search", "export", "schema"]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return speaker(tmp_path_factory.mktemp("cli") / "model", chain("Yes!"), positions=128)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(cli.DEBUG, "1")  # so that what main sets is taken away again
    monkeypatch.delenv(cli.DEBUG)


@pytest.fixture
def didact(monkeypatch, capfd):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["didact", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return call


def raising(monkeypatch, error: BaseException) -> None:
    """Makes ``didact schema`` fail."""

    def fail():
        raise error

    monkeypatch.setattr("didact.recipe.json_schema", fail)


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_verb(didact, arguments):
    code, out, err = didact(*arguments)
    assert (code, err) == (0, "")
    assert all(f" {verb} " in out for verb in VERBS)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom didact import cli\n"
        "for verb in [[], *([v] for v in sys.argv[1].split())]:\n"
        "    sys.argv = ['didact', *verb, '--help']\n"
        "    try:\n        cli.main()\n"
        "    except SystemExit as ended:\n        assert ended.code == 0, verb\n"
        "loaded = {'torch', 'transformers', 'numpy', 'pyarrow', 'jinja2'} & sys.modules.keys()\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code, " ".join(VERBS)], check=True, stdout=subprocess.DEVNULL)


def test_version(didact):
    from didact import __version__

    assert didact("--version") == (0, f"{__version__}\n", "")


def test_schema_is_json_on_stdout(didact):
    code, out, err = didact("schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["type"] == "object"


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "No such command 'frobnicate'; see didact --help"),
        (["--frobnicate"], "see didact --help"),
        (["chat"], "Missing argument"),
        (["chat", "m", "--frobnicate"], "see didact chat --help"),
        (["chat", "m", "--temperature", "hot"], "--temperature"),
        (["chat", "m", "--temperature", "-1"], "--temperature"),
        (["chat", "m", "--device", "tpu"], "--device"),
        (["run", "recipe.yaml", "--nproc", "0"], "--nproc"),
        (["eval", "m"], "--data"),
        (["export", "m", "f", "--dtype", "fp8"], "see didact export --help"),
        (["run", "no.yaml"], "no.yaml"),
    ],
)
def test_usage_is_one_line_and_code_2(didact, arguments, says):
    code, out, err = didact(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("didact: ")
    assert says in err
    assert err.count("\n") == 1


CODES = {
    errors.UsageProblem: 2,
    errors.DataProblem: 3,
    errors.ResourceProblem: 4,
    errors.Diverged: 6,
    errors.GateFailed: 7,
    errors.Preempted: 75,
}


@pytest.mark.parametrize(("kind", "wanted"), CODES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_problem_has_its_code(didact, monkeypatch, kind: type[Problem], wanted):
    raising(monkeypatch, kind("what", where="file:3", remedy="mend it"))
    assert didact("schema") == (wanted, "", "didact: file:3: what; mend it\n")


def test_a_missing_extra_prints_its_install_line(didact, monkeypatch):
    raising(monkeypatch, errors.MissingExtra("gguf", "gguf", "reading .gguf files"))
    assert didact("schema") == (5, "", "didact: reading .gguf files needs gguf; pip install 'didact[gguf]'\n")


def test_every_problem_class_is_listed_here():
    assert {*CODES, errors.MissingExtra} == set(Problem.__subclasses__())


def test_a_bug_is_one_line(didact, monkeypatch):
    raising(monkeypatch, RuntimeError("two\nlines"))
    code, out, err = didact("schema")
    assert (code, out) == (1, "")
    assert err == "didact: RuntimeError: two lines; this is a bug in Didact, run with --debug to see where\n"


def test_an_interrupt_is_130(didact, monkeypatch):
    raising(monkeypatch, KeyboardInterrupt())
    assert didact("schema") == (130, "", "didact: interrupted\n")


def test_the_known_cause_of_foreign_errors_is_named(didact, monkeypatch):
    error = ModuleNotFoundError("Could not import module 'PreTrainedModel'")
    error.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    raising(monkeypatch, error)
    code, _, err = didact("schema")
    assert code == 1
    assert "torchvision does not fit this torch; pip uninstall torchvision" in err


@pytest.mark.parametrize("arguments", [["--debug", "schema"], ["schema", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(didact, monkeypatch, arguments):
    raising(monkeypatch, errors.DataProblem("what"))
    code, _, err = didact(*arguments)
    assert code == 3
    assert "Traceback" in err
    assert err.endswith("didact: what\n")


def test_debug_after_two_dashes_is_not_ours():
    assert cli._without_debug(["run", "--", "--debug"]) == (["run", "--", "--debug"], False)
    assert cli._without_debug(["run", "--debug", "--", "--debug"]) == (["run", "--", "--debug"], True)


# --- verbs -------------------------------------------------------------------------------------------------


def test_chat_answers(didact, model):
    assert didact("chat", model, "--prompt", "Do you?")[:2] == (0, "Yes!\n")


def test_chat_of_nothing(didact, tmp_path):
    code, out, err = didact("chat", tmp_path / "nothing", "--prompt", "?")
    assert (code, out, err.count("\n")) == (3, "", 1)


def test_eval_measures_bits_per_byte(didact, model, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "Yes!"}\n{"text": "No."}\n')
    code, out, _ = didact("eval", model, "--data", "data.jsonl", "--against", model, "--device", "cpu")
    assert code == 0
    ours, theirs = map(json.loads, out.splitlines())
    assert ours == theirs
    assert (ours["model"], ours["bytes"]) == (str(model), 7)
    net = AutoModelForCausalLM.from_pretrained(model).requires_grad_(False)
    nats = 0.0
    for text in (b"Yes!", b"No."):
        ids = [*(_ids(model, text)), 2]
        logits = net(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        nats -= float(logits.gather(1, torch.tensor(ids[1:])[:, None]).sum())
    assert ours["bits_per_byte"] == pytest.approx(nats / 7 / math.log(2), rel=5e-3)  # bf16 where there is


def _ids(model: Path, text: bytes) -> list[int]:
    from didact.text import tokenizer as tokenizers

    return tokenizers.load(model).encode(text.decode(), add_special_tokens=False)


def test_eval_of_data_that_is_not_there(didact, model):
    code, out, err = didact("eval", model, "--data", "nothing.jsonl")
    assert (code, out) == (2, "")
    assert "nothing.jsonl" in err


@pytest.mark.parametrize(("dtype", "wanted"), [("as-saved", torch.float32), ("bf16", torch.bfloat16)])
def test_export_writes_what_transformers_reads(didact, model, tmp_path, dtype, wanted):
    code, out, err = didact("export", model, tmp_path / "out", "--dtype", dtype)
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    assert "the same logits" in err
    there, here = (AutoModelForCausalLM.from_pretrained(place, dtype=wanted) for place in (tmp_path / "out", model))
    ids = torch.arange(20)[None]
    assert there.dtype == wanted
    assert torch.equal(there(ids).logits, here(ids).logits)
    assert didact("chat", tmp_path / "out", "--prompt", "?")[1] == "Yes!\n"


def test_export_replaces_nothing(didact, model, tmp_path):
    (tmp_path / "out").mkdir()
    assert didact("export", model, "out")[0] == 0
    kept = (tmp_path / "out" / "config.json").stat().st_mtime_ns
    code, out, err = didact("export", model, "out")
    assert (code, out) == (2, "")
    assert "name a new folder" in err
    assert (tmp_path / "out" / "config.json").stat().st_mtime_ns == kept


def test_the_doctor_without_a_recipe(didact, tmp_path):
    code, out, err = didact("doctor")
    assert (code, err) == (0, "")
    assert "torch " in out
    assert "peak bfloat16" in out
