"""The battery's cases as real processes; nothing asks the network; nothing of the data is said."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.battery.base import chats, documents, lines
from tests.battery.case import complaints, done, left, recipe, some, write
from tests.battery.test_battery import CASES

PROCESSES = some(
    ["empty", "no argument", "bad line", "cut weights", "hostile pickle", "chat beyond the model"],
    ["bomb", "misspelled setting", "no such option", "empty answer", "cut Parquet", "no GGUF"],
)
WATCH = """
import os, socket

def watch(name, plain):
    def call(*given, **more):
        where = given[1] if len(given) > 1 else given
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{name} {where}\\n")
        raise OSError("the network is closed")
    return call

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, watch(name, None))
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, watch(name, None))
"""


VERBS = """
import shlex, sys
from didact import cli
for args in sys.argv[1:]:
    sys.argv = ["didact", *shlex.split(args)]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


def start(verbs: list[str], world: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Verbs one after another in a process of their own, until one fails."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([*([environment.pop("PYTHONPATH")] if "PYTHONPATH" in environment else []), root])
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DIDACT_CACHE": str(world / "cache"), **environment}
    one = ["-m", "didact", *shlex.split(verbs[0])]
    command = [sys.executable, *(one if len(verbs) == 1 else ["-c", VERBS, *verbs])]
    return subprocess.run(command, cwd=world, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_mistake_is_one_line_of_a_process(name, world):
    case = next(case for case in CASES if case.id == name)
    case.spoil(world)
    ended = start([case.args], world)
    assert (ended.returncode, len(complaints(ended.stderr)), ended.stdout) == (case.code, 1, ""), ended.stderr
    assert case.says in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert left(world) == []
    assert not (world / "ran").exists()


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (recipe("{pretrain: {data: docs.jsonl, context: 32, batch_size: 3}}"), 2, "batch_size 3 cannot be shared by 2"),
        (write("docs.jsonl", documents(3) + "{\n"), 3, "docs.jsonl:4: invalid JSON"),
    ],
    ids=["rows", "data"],
)
def test_a_mistake_is_one_line_of_two_processes(world, spoil, code, says):
    spoil(world)
    ended = start(["run recipe.yaml --nproc 2"], world)
    said = complaints(ended.stderr)
    assert ended.returncode == code, ended.stderr
    assert len(said) == 1, ended.stderr
    assert says in said[0]
    assert "Traceback" not in ended.stderr
    assert done(world) == 0


def test_nothing_asks_the_network(world, tmp_path):
    recipe(
        "{tokenizer: {data: docs.jsonl, vocab_size: 300}},"
        "{pretrain: {data: docs.jsonl, context: 32, max_steps: 1}},"
        "{evaluate: {data: {d: docs.jsonl}, samples: [Hi], max_new_tokens: 2}}",
        base="{architecture: llama, size: 60k}",
    )(world)
    watch = tmp_path / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    verbs = ["run recipe.yaml", "chat runs/r --prompt Hi --max-new-tokens 2", "inspect recipe.yaml seed=1"]
    ended = start(verbs, world, PYTHONPATH=str(watch), CONNECTIONS=str(quiet))
    assert ended.returncode == 0, ended.stderr
    assert not quiet.exists(), quiet.read_text()
    ended = start(["chat someone/model --prompt Hi"], world, PYTHONPATH=str(watch), CONNECTIONS=str(loud))
    assert (ended.returncode, len(complaints(ended.stderr))) == (4, 1), ended.stderr
    assert loud.exists()  # the watch does watch


SECRETS = [f"s3cr3t{n:04d}x" for n in range(500)]


def test_nothing_of_the_data_is_said(world, didact):
    write("docs.jsonl", lines([{"text": f"My word is {secret}."} for secret in SECRETS[:250]]))(world)
    talk = [
        {"messages": [{"role": "user", "content": f"Mine is {a}"}, {"role": "assistant", "content": f"{b}!"}]}
        for a, b in zip(SECRETS[250::2], SECRETS[251::2], strict=True)
    ]
    write("chats.jsonl", lines(talk))(world)
    recipe(
        "{pretrain: {data: docs.jsonl, heldout: docs.jsonl, context: 32, max_steps: 2}},"
        "{finetune: {data: chats.jsonl, context: 128, max_steps: 2}},"
        "{evaluate: {data: {d: docs.jsonl}, limit: 5}}"
    )(world)
    heard = ""
    for args in ("run recipe.yaml", f"chat runs/r --prompt 'I say {SECRETS[0]}' --max-new-tokens 2"):
        code, out, err = didact(args)
        assert code == 0, err
        heard += out + err
    kept = [path for path in (world / "runs").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert {path.name for path in kept} >= {"metrics.jsonl", "report.html", "done.json"}
    heard += "".join(path.read_text() for path in kept if not path.name.startswith("tokenizer"))
    assert [secret for secret in SECRETS if secret in heard] == []


S = SECRETS[0]


@pytest.mark.parametrize(
    "line",
    [
        f'{{"text": "{S}"',
        f'{{"text": ["{S}"]}}',
        f'{{"text": "{S}", "text": "{S}"}}',
        f'"{S}"',
        f'{{"prompt": "{S}", "completion": ""}}',
        f'{{"prompt": "{S}", "completion": 3}}',
        json.dumps({"messages": [{"role": "user", "content": S}]}),
        json.dumps({"messages": [{"role": "user", "content": S}, {"role": "assistant", "content": ""}]}),
        json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "tekst": S}]}]}),
        json.dumps({"messages": S}),
        json.dumps({"instruction": S, "output": {"a": S}}),
        json.dumps({"conversations": [{"from": "human", "value": {"a": S}}]}),
        json.dumps({"messages": [{"role": "user", "content": S}] * 2, "tools": S}),
    ],
)
def test_no_complaint_tells_what_was_written(world, didact, line):
    write("docs.jsonl", chats(0) + line + "\n")(world)
    code, out, err = didact("run recipe.yaml")
    assert (code, len(complaints(err))) == (3, 1), err
    assert S not in out + err
