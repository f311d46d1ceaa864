"""The stages align and reward under laws 1 and 4: killed at any moment and resumed, and shared by two processes."""

import json
import random
import signal
from pathlib import Path

import pytest

from tests.battery.base import lines, make_base
from tests.engine.worker import closing, left, said

HOW = "context: 96, batch_size: 4, micro_batch_size: 2, save_every: 2, precision: fp32, compile: 'off', max_steps: 6"
STAGES = {
    "align": f"align: {{data: pairs.jsonl, objective: {{dpo: {{sft: 0.1}}}}, forgetting: false, {HOW}}}",
    "kto": f"align: {{data: thumbs.jsonl, objective: kto, annotators: dawid_skene, forgetting: false, {HOW}}}",
    "reward": f"reward: {{data: pairs.jsonl, holdout: 0.2, {HOW}}}",
    "ensemble": f"reward: {{data: pairs.jsonl, holdout: 0.2, people: 0.3, ensemble: 2, tune: lora, {HOW}}}",
}
RATE = ", learning_rate: 1e-3}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base, judgements, and a recipe for each stage."""
    here = tmp_path_factory.mktemp("judged")
    base = make_base(here / "base")
    asked = [{"prompt": f"Which is {n}?", "annotator": "abc"[n % 3]} for n in range(24)]
    pairs = [one | {"chosen": f"The red b is number {n}.", "rejected": "No."} for n, one in enumerate(asked)]
    thumbs = [one | {"completion": "It is.", "label": n % 3 == 0, "annotator": "a"} for n, one in enumerate(asked)]
    thumbs += [one | {"annotator": "b"} for one in thumbs]
    (here / "pairs.jsonl").write_text(lines(pairs))
    (here / "thumbs.jsonl").write_text(lines(thumbs))
    for name, stage in STAGES.items():
        stage = stage.removesuffix("}") + RATE
        stage = stage.replace("data: ", f"data: {here}/")
        (here / f"{name}.yaml").write_text(f"name: r\nbase: {base}\ndevice: cpu\nstages:\n  - {stage}\n")
    return here


def run(server, place: Path, name: str, folder: Path, world: int = 1) -> Path:
    codes = server.attempt({"recipe": str(place / f"{name}.yaml"), "world": world}, folder)
    assert set(codes) == {0}, said(folder)
    return folder


def harmed(server, place: Path, name: str, folder: Path, whole: Path, harms: list[dict], world: int = 1) -> int:
    """Attempts with one harm after the other, then one without: nothing may differ. How many struck."""
    struck, job = 0, {"recipe": str(place / f"{name}.yaml"), "world": world}
    for harm in harms:
        codes = server.attempt(job, folder, signal=int(signal.SIGKILL), **harm)
        if set(codes) == {0}:
            break
        assert codes[harm["rank"]] == -9, said(folder)  # another may see its peer gone before it is ended too
        struck += 1
    run(server, place, name, folder, world)
    assert left(folder) == left(whole), "a step differs when taken again"
    assert closing(folder) == closing(whole)
    return struck


@pytest.mark.parametrize("name", STAGES)
def test_killed_at_a_random_step_it_ends_where_the_unbroken_one_does(server, place, tmp_path, name):
    whole = run(server, place, name, tmp_path / "whole")
    steps = len(left(whole))
    assert steps == (12 if name == "ensemble" else 6)
    at = random.Random(name).randrange(1, steps)
    assert harmed(server, place, name, tmp_path / "cut", whole, [{"rank": 0, "lines": at}]) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", STAGES)
def test_killed_at_random_instants(server, place, tmp_path, name, world):
    whole, draw, struck = run(server, place, name, tmp_path / "whole", world), random.Random(name), 0
    seconds = server.seconds
    for life in range(4):
        ranks = [draw.randrange(world) for _ in range(3)]
        harms = [{"rank": rank, "after": draw.uniform(0.05, 0.95) * seconds} for rank in ranks]
        struck += harmed(server, place, name, tmp_path / f"{life}", whole, harms, world)
    assert struck >= 6


@pytest.mark.parametrize("name", ["align", pytest.param("kto", marks=pytest.mark.slow), "ensemble"])
def test_two_processes_learn_as_one_does(server, place, tmp_path, name):
    one, two = (run(server, place, name, tmp_path / f"{world}", world) for world in (1, 2))
    first, second = trained(one), trained(two)
    assert first.keys() == second.keys()
    for step, line in first.items():
        assert second[step]["rows"] == line["rows"]
        for key in (key for key in line if key.startswith("loss")):
            wanted = pytest.approx(float.fromhex(line[key]), rel=1e-5, abs=1e-6)
            assert float.fromhex(second[step][key]) == wanted, (step, key)
    if name == "ensemble":
        (mine, other) = (known(folder) for folder in (one, two))
        for facts, same in ((mine, other), (mine["members"]["member-2"], other["members"]["member-2"])):
            assert same["scale"] == pytest.approx(facts["scale"], rel=1e-4)
            wanted = pytest.approx(facts["prompts"]["calibration_error"], rel=1e-3)
            assert same["prompts"]["calibration_error"] == wanted


def trained(folder: Path) -> dict[tuple, dict]:
    """The trail by the name of what was trained and the step."""
    found = [json.loads(line) for line in left(folder)]
    return {(line["name"], line["step"]): line for line in found}


def known(folder: Path) -> dict:
    """What the reward model knows of itself."""
    (path,) = folder.glob("runs/r/stages/*/model/config.json")
    return json.loads(path.read_text())["didact"]["reward"]
