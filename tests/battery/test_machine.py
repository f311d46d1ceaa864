"""A machine that says no: disks that are full or forbidden, devices and packages that are not there."""

import errno
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.battery.base import RECIPE, documents
from tests.battery.case import complaints, done, left, recipe, some, write

RUN = "run recipe.yaml"


def refused(didact, code: int, says: str, args: str = RUN) -> None:
    got, out, err = didact(args)
    assert (got, len(complaints(err)), out) == (code, 1, ""), err
    assert says in err.splitlines()[-1], err
    assert "Traceback" not in err


def goes_on(didact) -> None:
    """What was refused is mended: the same command runs to its end."""
    code, _, err = didact(RUN)
    assert (code, complaints(err)) == (0, []), err


def test_runs_is_a_file(world, didact):
    (world / "runs").write_text("")
    refused(didact, 4, "runs")
    (world / "runs").unlink()
    goes_on(didact)


def test_the_cache_is_a_file(world, didact):
    (world / "cache").write_text("")
    refused(didact, 4, "DIDACT_CACHE")
    (world / "cache").unlink()
    goes_on(didact)


@pytest.mark.parametrize("place", ["runs", "cache"])
@pytest.mark.parametrize("why", some([errno.EACCES], [errno.EROFS, errno.ENOSPC]))
def test_a_folder_may_not_be_made(world, didact, monkeypatch, place, why):
    make = os.mkdir

    def mkdir(path, *args, **more):
        if Path(path).is_relative_to(world / place):
            raise OSError(why, os.strerror(why), os.fspath(path))
        make(path, *args, **more)

    monkeypatch.setattr(os, "mkdir", mkdir)
    refused(didact, 4, os.strerror(why))
    monkeypatch.setattr(os, "mkdir", make)
    goes_on(didact)


def test_a_device_that_is_not_here(world, didact):
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    absent = next(name for name, there in have.items() if not there)
    recipe("{pretrain: {data: docs.jsonl}}", more=f"device: {absent}\n")(world)
    refused(didact, 4, f"device {absent!r} is not available here; set device: auto")


@pytest.mark.parametrize("package", ["zstandard", "gguf", "datasets"])
def test_an_extra_that_is_not_installed(world, didact, monkeypatch, package):
    data, extra, start = {
        "zstandard": ("docs.jsonl.zst", "zstd", "./base"),
        "gguf": ("docs.jsonl", "gguf", "m.gguf"),
        "datasets": ("hub:org/name", "hub", "./base"),
    }[package]
    write("docs.jsonl.zst", b"\x28\xb5\x2f\xfd")(world)
    header = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
    write("m.gguf", header + bytes(64))(world)
    recipe("{pretrain: {data: '" + data + "', context: 32}}", base=start)(world)
    monkeypatch.setitem(sys.modules, package, None)
    refused(didact, 5, f"pip install 'didact[{extra}]'")
    (world / "recipe.yaml").write_text(RECIPE)
    goes_on(didact)


def test_a_gate_that_stays_shut(world, didact):
    recipe(
        "{pretrain: {data: docs.jsonl, context: 32, max_steps: 1}},"
        "{evaluate: {data: {d: docs.jsonl}, gate: {d: 0.5}, context: 32, against: none}}"
    )(world)
    for _ in range(2):  # the second time nothing is left to run, and the gate is still shut
        code, _, err = didact(RUN)
        assert code == 7
        assert len(complaints(err)) == 1
        assert "bits per byte, the gate allows 0.5" in err.splitlines()[-1]
        assert done(world) == 2
    assert "finished before, skipped" in err


# --- full disks ----------------------------------------------------------------------------------------------


@pytest.fixture
def limit():
    """Lowers the size that files may have, as a full disk would; gives back how to lift it again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lower(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield lower, lift
    lift()


@pytest.mark.parametrize("kilobytes", some([12], [4, 24, 48, 96]))
def test_files_may_not_grow(world, didact, limit, kilobytes):
    """A limit on the size of files stops writing at another place each time; nothing half-written stays."""
    lower, lift = limit
    (world / "docs.jsonl").write_text(documents(900))
    lower(kilobytes << 10)
    code, _, err = didact(RUN)
    lift()
    assert "Traceback" not in err
    assert (code, len(complaints(err)), done(world)) in ((0, 0, 1), (4, 1, 0)), err
    assert left(world) == []
    goes_on(didact)
    assert done(world) == 1


@pytest.mark.parametrize("step", ["run.learn.save_model", "text.tokenizer.save", "run.summary.write_report"])
def test_the_disk_fills_up_late(world, didact, limit, monkeypatch, step):
    """After the training is done, in the middle of what is written then."""
    lower, lift = limit
    whole, size = pkgutil.resolve_name(f"didact.{step}"), 0

    def late(*args, **more):
        lower(size)
        return whole(*args, **more)

    for size in (2 << 10, 6 << 10, 12 << 10):
        monkeypatch.setattr(f"didact.{step}", late)
        code, _, err = didact(RUN)
        lift()
        assert (code, len(complaints(err))) == (4, 1), (size, err)
        assert left(world) == []
        monkeypatch.setattr(f"didact.{step}", whole)
    goes_on(didact)
    assert done(world) == 1


@pytest.mark.parametrize("number", some([1, 4, 7], [2, 3, 5, 6, 8, 9, 10, 11]))
def test_the_disk_refuses_to_keep(world, didact, monkeypatch, number):
    """What was written is not kept: the n-th time anything waits for the disk."""
    sync, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    code, _, err = didact(RUN)
    assert "Traceback" not in err
    assert (code, len(complaints(err))) == (4, 1), err
    assert left(world) == []
    goes_on(didact)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kilobytes."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk may be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", some([4], [16, 64, 256]))
def test_the_disk_is_full(world, didact, small_disk, kilobytes):
    """At every size the run ends or says so, and goes on once there is room."""
    runs = small_disk(kilobytes)
    code, _, err = didact(f"{RUN} --runs disk")
    assert "Traceback" not in err
    assert (code, len(complaints(err))) in ((0, 0), (4, 1)), err
    assert [path for path in runs.rglob("*") if path.name.startswith(".")] == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(runs)], check=True)
    code, _, err = didact(f"{RUN} --runs disk")
    assert (code, complaints(err)) == (0, []), err


# --- a person who interrupts ---------------------------------------------------------------------------------


def test_interrupted_while_it_starts(world, didact, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("didact.run.command.join", interrupt)
    code, _, err = didact(RUN)
    assert (code, err.splitlines()[-1]) == (130, "didact: interrupted")


def test_interrupted_while_it_trains(world, didact, monkeypatch):
    recipe("{pretrain: {data: docs.jsonl, context: 32, batch_size: 2, max_steps: 40}}")(world)
    from didact.engine import train

    record, steps = train.Loop._record, []

    def ask(self, *given):
        record(self, *given)
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train.Loop, "_record", ask)
    assert threading.current_thread() is threading.main_thread()
    code, _, err = didact(RUN)
    assert code == 75
    assert len(complaints(err)) == 1
    assert "run again to resume" in err.splitlines()[-1]
    assert done(world) == 0
    goes_on(didact)
    assert done(world) == 1
