"""``didact run`` from end to end on a tiny recipe: alone, in two processes, under torchrun; stopped and killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from didact.engine import metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
RECIPE = """
name: tiny
base: {architecture: llama, size: 40k, config: {num_hidden_layers: 2, attention_dropout: 0.1}}
stages:
  - tokenizer: {data: text.txt, vocab_size: 300}
  - pretrain: {data: text.txt, heldout: held.txt, context: 64, batch_size: 4, max_steps: 30, save_every: 5,
               learning_rate: 3e-3, precision: fp32}
  - evaluate: {data: {held: held.txt}, against: none, context: 64, samples: ["Hello"], max_new_tokens: 8}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("life"), random.Random(0)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "tu") for b in ("ra", "se", "no", "pi", "")]
    for name, sentences in (("text.txt", 2000), ("held.txt", 50)):
        lines = (" ".join(draw.choice(words) for _ in range(9)) + ".\n" for _ in range(sentences))
        (folder / name).write_text("".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def started(place: Path, runs: str, *launcher: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIDACT_CACHE": str(place / f"cache-{runs}")}
    command = [*(launcher or (sys.executable, "-m", "didact")), "run", "recipe.yaml", "--runs", runs, *options]
    with open(place / f"{runs}.log", "ab") as log:
        return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)


def finished(place: Path, runs: str, *launcher: str, options: tuple[str, ...] = ()) -> None:
    assert started(place, runs, *launcher, options=options).wait(timeout=300) == 0, log(place, runs)


def log(place: Path, runs: str) -> str:
    return (place / f"{runs}.log").read_text()


def left(place: Path, runs: str) -> dict[str, object]:
    """What must not depend on how often the run was harmed."""
    stages = sorted((place / runs / "tiny" / "stages").iterdir())
    pretrain = next(folder for folder in stages if "pretrain" in folder.name)
    lines = metrics.read(pretrain / "metrics.jsonl")
    evaluations = [json.loads((folder / "done.json").read_text())["facts"].get("evaluations") for folder in stages]
    return {
        "model": (pretrain / "model" / "model.safetensors").read_bytes(),
        "losses": [(line["step"], line.get("loss_hex"), line.get("held_out"), line.get("grad_norm")) for line in lines],
        "evaluations": evaluations,
        "checkpoints": list(pretrain.glob("checkpoints")),
    }


@pytest.fixture(scope="module")
def alone(place) -> dict[str, object]:
    began = time.monotonic()
    finished(place, "alone")
    return {**left(place, "alone"), "seconds": time.monotonic() - began}


@pytest.fixture(scope="module")
def pair(place) -> dict[str, object]:
    began = time.monotonic()
    finished(place, "pair", options=("--nproc", "2"))
    return {**left(place, "pair"), "seconds": time.monotonic() - began}


def same(found: dict[str, object], whole: dict[str, object]) -> None:
    for name, value in found.items():
        assert value == whole[name], f"{name} differs"


def losses(found: dict) -> list[float]:
    return [float.fromhex(loss) for _, loss, _, _ in found["losses"] if loss]


def test_two_processes_end_where_one_does(place):
    """Without dropout, whose draws are each process's own."""
    plain = ("base.config.attention_dropout=0.0",)
    finished(place, "one", options=plain)
    finished(place, "two", options=(*plain, "--nproc", "2"))
    one, two = left(place, "one"), left(place, "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(one)) == 30


def test_torchrun_gives_what_nproc_gives(place, pair):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "didact")
    finished(place, "torchrun", *torchrun)
    same(left(place, "torchrun"), pair)


def stopped_until_done(place: Path, runs: str, seed: int, seconds: float, *options: str) -> int:
    """SIGTERM at random moments of the whole life, importing torch included, until it is done. How often."""
    draw, stops = random.Random(seed), 0
    for _ in range(12):
        process = started(place, runs, options=options)
        try:
            process.wait(timeout=draw.uniform(0.04, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            code = process.wait(timeout=60)
            assert time.monotonic() - asked < 30
            assert code in (75, 0), (code, log(place, runs))
            stops += code == 75
    finished(place, runs, options=options)
    return stops


@pytest.mark.parametrize("seed", range(3))
def test_stopped_at_any_moment(place, alone, seed):
    assert stopped_until_done(place, f"stopped-{seed}", seed, alone["seconds"])
    same(left(place, f"stopped-{seed}"), alone)
    assert "bug in Didact" not in log(place, f"stopped-{seed}")


@pytest.mark.parametrize("seed", range(2))
def test_two_stopped_at_any_moment(place, pair, seed):
    assert stopped_until_done(place, f"stopped-pair-{seed}", seed, pair["seconds"], "--nproc", "2")
    same(left(place, f"stopped-pair-{seed}"), pair)
    assert "bug in Didact" not in log(place, f"stopped-pair-{seed}")


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(place, alone, seed):
    draw, runs = random.Random(seed), f"killed-{seed}"
    for _ in range(4):
        process = started(place, runs)
        try:
            process.wait(timeout=draw.uniform(0.2, 0.9) * alone["seconds"])
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    finished(place, runs)
    same(left(place, runs), alone)


def test_killed_ranks_are_started_again(place, pair):
    draw = random.Random(0)
    process = started(place, "killed-pair", options=("--nproc", "2"))
    kills = 0
    while process.poll() is None and kills < 4:
        time.sleep(draw.uniform(0.3, 0.8) * pair["seconds"])
        ranks = [child for child in psutil.Process(process.pid).children() if process.poll() is None]
        if len(ranks) == 2:
            draw.choice(ranks).kill()
            kills += 1
    assert process.wait(timeout=300) == 0, log(place, "killed-pair")
    assert kills
    same(left(place, "killed-pair"), pair)


def test_torchrun_asked_to_stop_resumes(place, pair):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "didact")
    process = started(place, "torchrun-stopped", *torchrun)
    until = time.monotonic() + 120
    while "resumed" not in log(place, "torchrun-stopped") and "loss" not in log(place, "torchrun-stopped"):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)  # torchrun's own code; what counts is what its processes did
    assert "saved; run again to resume" in log(place, "torchrun-stopped")
    finished(place, "torchrun-stopped", *torchrun)
    same(left(place, "torchrun-stopped"), pair)
