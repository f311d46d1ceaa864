"""A server that kills: ``python -m tests.engine.killing FOLDER KIND`` prints every kill and its outcome as JSON.

It imports torch once, then forks a child a kill, so that hundreds take seconds. No thread runs when it forks.
"""

import itertools
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.engine.chaos import SCENARIOS, Counter, Killer, after, check, events, finish, fork, prepared, save
from tests.engine.worlds import two, worlds

AUDITED = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def one(folder: Path, scenario: str, at: int, when: str) -> str:
    """One kill of one process: "killed", "done" (there was no such event), or what went wrong."""
    before, step, allowed = SCENARIOS[scenario]
    root = folder / f"{scenario}-{at}-{when}" / "root"
    prepared(root, before, dirty=True)

    def work() -> None:
        with events(Killer(at, when)):
            save(root, step)

    code = finish(fork(work))
    if code not in (0, -signal.SIGKILL):
        return f"the save itself failed with {code}"
    return after(root, allowed if code else (step,)) or ("killed" if code else "done")


def count(folder: Path, scenario: str) -> list[str]:
    """The names of all events of a save in a scenario; audit events must tell of the same ones."""
    root = folder / f"count-{scenario}" / "root"
    before, step, _ = SCENARIOS[scenario]
    prepared(root, before, dirty=True)
    heard: list[str] = []

    def hear(name: str, arguments: tuple) -> None:
        if name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            heard.append("open")
        elif name in AUDITED:
            heard.append({"os.remove": "unlink"}.get(name, name.removeprefix("os.")))

    def work() -> None:
        counter = Counter()
        sys.addaudithook(hear)
        with events(counter):
            save(root, step)
        seen = [name for name, _ in counter.seen]
        told = list(heard)  # the next line is heard too
        assert [name for name in seen if name not in ("write", "fsync")] == told, (seen, told)
        (root.parent / "events").write_text(" ".join(seen))

    assert finish(fork(work)) == 0
    return (root.parent / "events").read_text().split()


def at_random(folder: Path, kills: int, seed: int) -> Iterator[tuple[str, str]]:
    """Kills a process that saves without pause, at random moments; no save it had told of may be lost."""
    root, draw, told = folder / "random" / "root", random.Random(seed), 1
    assert finish(fork(lambda: save(root, told))) == 0  # else a slow machine is killed before it has saved anything
    for number in range(kills):
        reader, writer = os.pipe()

        def work(writer: int = writer, begin: int = told + 1) -> None:
            for step in range(begin, begin + 10_000):
                save(root, step)
                os.write(writer, step.to_bytes(8, "little"))

        child = fork(work)
        os.close(writer)
        time.sleep(draw.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        code = finish(child)
        with os.fdopen(reader, "rb") as pipe:
            told = max([told, *(number for (number,) in struct.iter_unpack("<Q", pipe.read()))])
        ok = code == -signal.SIGKILL and finish(fork(lambda allowed=(told, told + 1): check(root, allowed))) == 0
        yield f"kill {number} after step {told}", "killed" if ok else f"lost, or exit {code}"


def serve(folder: Path, kind: str) -> Iterator[tuple[str, str]]:
    """Every kill point of a kind, one after another, with its outcome."""
    if kind == "two":
        for rank in (0, 1):
            for at in itertools.count():
                outcome = two(folder, rank, at)
                yield f"rank {rank} event {at}", outcome
                if outcome != "killed":
                    break
    elif kind == "worlds":
        yield from worlds(folder)
    elif kind.startswith("random"):
        yield from at_random(folder, int(kind.removeprefix("random")), seed=0)
    else:
        names = count(folder, kind)
        for at, name in enumerate(names):
            for when in ("before", "halfway", "after") if name == "write" else ("before", "after"):
                yield f"{kind} event {at} {name} {when}", one(folder, kind, at, when)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(list(serve(Path(sys.argv[1]), sys.argv[2]))))
