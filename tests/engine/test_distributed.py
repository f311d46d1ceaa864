"""Law 1 between processes: one, two or a changing number of them train alike; and law 4 for two."""

import random
import signal

import pytest

from tests.engine.worker import closing, left, said, trail

TRAINING = {"save_every": 3, "learning_rate": 1e-2}
FULL = {"steps": 9, "training": TRAINING}
LINKED = {**FULL, "linked": True}  # a head beside the network
PAIRS = {**FULL, "pairs": True}  # negatives gathered from all processes
LORA = {"steps": 9, "training": TRAINING, "lora": True}
MASKED = {**FULL, "masked": True}
POLICY = {"steps": 6, "training": {**TRAINING, "micro_batch_size": 2}, "policy": True}  # each answers its share
DISTIL = {**FULL, "distil": True}
RATIO = {**FULL, "turn": {"ratio": 4.1}}
GRIT = {**PAIRS, "turn": {"ratio": 4.1}}
TWO = {
    "full": FULL,
    "bf16": {**FULL, "dtype": "bfloat16", "model": {"attention_dropout": 0.1}},
    "lora": {**LORA, "dropout": 0.1},
    "muon": {"steps": 9, "training": {**TRAINING, "optimizer": "muon"}},
    "thaw": {"steps": 9, "training": {**TRAINING, "layer_decay": 0.5, "unfreeze": 0.6}},
}


def run(server, job, folder):
    assert set(server.attempt(job, folder)) == {0}, said(folder)
    return folder


def alike(one, other, within: float) -> None:
    """Same data in the same order, and numbers that differ as sums in another order do."""
    first, second, ends = trail(one), trail(other), (closing(one), closing(other))
    for name in ("before", "after"):
        assert float.fromhex(ends[1][name]) == pytest.approx(float.fromhex(ends[0][name]), rel=within)
    assert first.keys() == second.keys()
    for step, line in first.items():
        assert [line[key] for key in ("rows", "tokens", "rate")] == [
            second[step][key] for key in ("rows", "tokens", "rate")
        ]
        for name in line:
            if name.startswith("loss") or name == "norm":
                wanted = pytest.approx(float.fromhex(line[name]), rel=within * (100 if name == "norm" else 1))
                assert float.fromhex(second[step][name]) == wanted, (step, name)


@pytest.mark.parametrize(
    ("job", "within"),
    [
        (FULL, 1e-5),
        (LORA, 1e-5),
        (TWO["muon"], 1e-4),
        (TWO["thaw"], 1e-5),
        (RATIO, 1e-5),
        (PAIRS, 1e-5),
        (GRIT, 1e-5),
        (MASKED, 1e-5),
        (DISTIL, 1e-5),
        (POLICY, 1e-4),
        ({**POLICY, "lora": True}, 1e-4),
        ({**POLICY, "policy": "refill"}, 1e-4),
        ({**POLICY, "policy": "critic"}, 1e-4),
        ({**PAIRS, "lora": True}, 1e-5),
        ({**FULL, "diffusion": True}, 1e-5),
        ({**LORA, "diffusion": True}, 1e-5),
        (LINKED, 1e-5),
    ],
    ids=[
        "full",
        "lora",
        "muon",
        "thaw",
        "ratio",
        "pairs",
        "grit",
        "masked",
        "distil",
        "policy",
        "policy-lora",
        "policy-refill",
        "policy-critic",
        "pairs-lora",
        "diffusion",
        "diffusion-lora",
        "linked",
    ],
)
def test_two_processes_train_as_one_does(server, tmp_path, job, within):
    one, two = run(server, job, tmp_path / "one"), run(server, {**job, "world": 2}, tmp_path / "two")
    alike(one, two, within)
    assert closing(one)["tokens"] == closing(two)["tokens"]


@pytest.mark.slow
def test_four_processes_train_as_one_does(server, tmp_path):
    alike(run(server, FULL, tmp_path / "one"), run(server, {**FULL, "world": 4}, tmp_path / "four"), 1e-5)


@pytest.mark.parametrize("job", [FULL, pytest.param(LORA, marks=pytest.mark.slow)], ids=["full", "lora"])
def test_the_number_of_processes_may_change(server, tmp_path, job):
    one, changing = run(server, job, tmp_path / "one"), tmp_path / "changing"
    for world, until in ((1, 4), (2, 7)):
        harm = {"rank": 0, "step": until, "signal": int(signal.SIGKILL)}
        assert server.attempt({**job, "world": world}, changing, **harm)[0] == -9, said(changing)
    run(server, job, changing)
    alike(one, changing, 1e-5)
    assert "resumed at step 3 of 9" in said(changing)
    assert "resumed at step 6 of 9" in said(changing)


def broken_and_resumed(server, job, folder, whole, harms) -> int:
    """Attempts of two processes with one harm after the other, then one without; how many struck."""
    struck = 0
    for harm in harms:
        codes = server.attempt(job, folder, **harm)
        assert None not in codes, f"hung; {said(folder)}"
        if set(codes) == {0}:
            break
        assert codes[harm["rank"] or 0] == (75 if harm["signal"] == signal.SIGTERM else -9), said(folder)
        if harm["signal"] == signal.SIGTERM:  # one asked alone leaves alone where nothing is held; the other breaks
            assert set(codes) <= ({75} if harm["rank"] is None else {75, 1}), (codes, said(folder))
        struck += 1
    else:
        run(server, job, folder)
    assert left(folder) == left(whole), "a step differs when taken again"
    assert closing(folder) == closing(whole)
    return struck


def test_two_processes_killed_and_resumed(server, tmp_path):
    job = {**TWO["bf16"], "world": 2}
    whole = run(server, job, tmp_path / "whole")
    harms = [{"rank": rank, "step": 4 + 3 * rank, "signal": int(signal.SIGKILL)} for rank in (0, 1)]
    assert broken_and_resumed(server, job, tmp_path / "cut", whole, harms) == 2


@pytest.mark.parametrize("rank", [None, 1], ids=["both", "one"])
def test_two_processes_asked_to_stop(server, tmp_path, rank):
    """Also where only one of them is asked: all save together and say 75."""
    job = {**FULL, "world": 2}
    whole = run(server, job, tmp_path / "whole")
    harm = {"rank": rank, "step": 4, "signal": int(signal.SIGTERM)}
    assert broken_and_resumed(server, job, tmp_path / "cut", whole, [harm]) == 1
    assert "saved; run again to resume" in said(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", TWO)
def test_two_processes_harmed_at_random_moments(server, tmp_path, name, number):
    job, draw, struck, life = {**TWO[name], "world": 2}, random.Random(0), 0, 0
    whole = run(server, job, tmp_path / "whole")
    seconds = server.seconds
    while struck < 12:
        harms = [
            {"rank": draw.choice([0, 1, None]), "after": draw.uniform(0.05, 0.85) * seconds, "signal": int(number)}
            for _ in range(3)
        ]
        struck += broken_and_resumed(server, job, tmp_path / str(life), whole, harms)
        life += 1
