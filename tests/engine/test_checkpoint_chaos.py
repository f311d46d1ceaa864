import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from didact.engine import checkpoint
from didact.errors import ResourceProblem
from tests.engine import chaos

REPOSITORY = Path(__file__).parents[2]


def outcomes(folder: Path, kind: str) -> list[tuple[str, str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.engine.killing", str(folder), kind]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def failures(found: list[tuple[str, str]], fine: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(where, outcome) for where, outcome in found if outcome not in fine]


@pytest.mark.parametrize("scenario", list(chaos.SCENARIOS))
def test_a_kill_at_every_file_event_loses_nothing(tmp_path, scenario):
    found = outcomes(tmp_path, scenario)
    assert len(found) > 50
    assert not failures(found, ("killed",))


def test_kills_at_random_moments_lose_no_save_that_had_returned(tmp_path):
    found = outcomes(tmp_path, "random50")
    assert len(found) == 50
    assert not failures(found, ("killed",))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_thousand_kills_at_random_moments(tmp_path):
    assert not failures(outcomes(tmp_path, "random2000"), ("killed",))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_of_either_of_two_processes_at_every_file_event(tmp_path):
    found = outcomes(tmp_path, "two")
    assert len(found) > 40
    assert [outcome for _, outcome in found].count("done") == 2  # one past the last event of each process
    assert not failures(found, ("killed", "done"))


def test_any_number_of_processes_loads_what_another_number_saved(tmp_path):
    found = outcomes(tmp_path, "worlds")
    assert len(found) == 7
    assert not failures(found, ("done",))


def counted(root: Path, step: int) -> chaos.Counter:
    counter = chaos.Counter()
    with chaos.events(counter):
        chaos.save(root, step)
    return counter


def attempt(root: Path, step: int) -> str:
    """A save that may fail, in one line and with the code of its kind; the line."""
    try:
        chaos.save(root, step)
    except ResourceProblem as problem:
        return f"{problem.code}: {problem}"
    return ""


def refused(root: Path, step: int, act: chaos.Counter) -> None:
    """Saves on a failing disk: fine or one line, nothing half-written, the last checkpoint valid, the next one fine."""
    with chaos.events(act):
        line = attempt(root, step)
    assert "\n" not in line
    assert not line or (line.startswith("4: ") and "cannot save a checkpoint: " in line)
    assert not (root / f".saving-step-{step:08d}").exists()
    chaos.check(root, (step - 1, step))
    chaos.save(root, step + 1)
    assert chaos.check(root, (step + 1,)) == step + 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
def test_an_error_at_every_file_event_is_one_line(tmp_path, number):
    chaos.prepared(tmp_path / "count", (1, 2), dirty=True)
    total = len(counted(tmp_path / "count", 3).seen)
    assert total > 20
    for at in range(total):
        root = tmp_path / str(at)
        chaos.prepared(root, (1, 2), dirty=True)
        refused(root, 3, chaos.Failer(at, number))


def test_a_disk_full_at_twenty_offsets_keeps_the_last_checkpoint(tmp_path):
    size = sum(path.stat().st_size for path in chaos.save(tmp_path / "size", 1).iterdir())
    for part in range(20):
        root = tmp_path / str(part)
        chaos.prepared(root, (1, 2), dirty=False)
        act = chaos.Full(room=size * part // 20)
        refused(root, 3, act)
        assert act.room == 0


def test_a_really_full_disk_at_twenty_offsets_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    monkeypatch.setattr(checkpoint.durable, "preflight", lambda folder, size: None)
    full = 0
    try:
        for part in range(20):
            root = disk / "root"
            chaos.prepared(root, (1, 2), dirty=False)
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - part * 1024))
            full += "No space left" in attempt(root, 3)
            assert not list(root.glob(".saving-*"))
            chaos.check(root, (2, 3))
            ballast.unlink()
            chaos.save(root, 4)
            assert chaos.check(root, (4,)) == 4
            shutil.rmtree(root)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert full >= 10


def test_everything_reaches_the_disk_in_order(tmp_path):
    """A power failure keeps what was synced only: each file before the manifest, all before the rename."""
    root = tmp_path / "root"
    chaos.prepared(root, (1, 2), dirty=False)
    handles: dict[int, str] = {}
    order: list[str] = []

    def act(name, real, arguments):
        result = real(*arguments)
        if name == "open":
            handles[result] = Path(arguments[0]).name
        if name in ("write", "fsync"):
            target = handles.get(arguments[0]) or Path(os.readlink(f"/proc/self/fd/{arguments[0]}")).name
            order.append(f"{name} {target}")
            if name == "fsync":
                handles.pop(arguments[0], None)
        if name == "rename":
            order.append(f"rename {Path(arguments[0]).name} {Path(arguments[1]).name}")
        return result

    with chaos.events(act):
        path = chaos.save(root, 3)
    steps = [step for i, step in enumerate(order) if step not in order[:i]]
    temp = f".saving-{path.name}"
    files = ["tensors-00001.safetensors", "tokenizer.json", "state.json", "manifest.json"]
    expected = [f"{call} {name}" for name in files for call in ("write", "fsync")]
    expected += [f"fsync {temp}", f"rename {temp} {path.name}", f"fsync {root.name}"]
    assert steps == [*expected, "rename step-00000001 .removing-step-00000001"]
