"""Several processes at once, and processes that die: nothing acknowledged is lost, nothing is there twice."""

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter

import pytest

from didact.feedback.store import Store
from tests.feedback.samples import exchange, thumb

fork = multiprocessing.get_context("fork")


def write(place: str, name: str, count: int, acknowledged: int) -> None:
    """Keeps ``count`` records; the key and id of each go into the pipe once the store has them."""
    with Store.open(place) as store:
        asked = store.add(exchange(prompt=name), key=f"{name}-0")
        for i in range(count):
            key = f"{name}-{i}"
            kept = store.add(thumb(asked, annotator=name, reason=str(i)), key=key) if i else asked
            os.write(acknowledged, f"{key} {kept.id}\n".encode())


def started(place: str, name: str, count: int) -> tuple[multiprocessing.Process, int]:
    read, write_end = os.pipe()
    process = fork.Process(target=write, args=(place, name, count, write_end))
    process.start()
    os.close(write_end)
    return process, read


def said(pipe: int) -> dict[str, str]:
    """Everything that was acknowledged, read to the end."""
    with os.fdopen(pipe, "rb") as stream:
        lines = [line.split() for line in stream.read().decode().splitlines(keepends=True) if line.endswith("\n")]
    return dict(lines)


def kept(place: str) -> dict[str, str]:
    with Store.open(place) as store:
        found = [(one.key, one.id) for one in store.each()]
    assert max(Counter(key for key, _ in found).values(), default=1) == 1
    return dict(found)


def intact(place: str) -> bool:
    if "://" in place:
        return True
    connection = sqlite3.connect(place)
    return connection.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_four_writers_lose_and_double_nothing(place, count):
    writers = [started(place, f"w{i}", count // 4) for i in range(4)]  # all four make the tables, too
    acknowledged = {key: id for _, pipe in writers for key, id in said(pipe).items()}
    for process, _ in writers:
        process.join()
        assert process.exitcode == 0
    assert len(acknowledged) == count
    assert kept(place) == acknowledged
    assert intact(place)


def test_two_that_send_the_same_keys_at_once_are_both_answered_alike(place):
    writers = [started(place, "same", 100) for _ in range(2)]
    one, other = (said(pipe) for _, pipe in writers)
    assert len(one) == 100
    assert one == other == kept(place)


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_it_acknowledged(place, kills):
    draw, everything = random.Random(kills), {}
    for kill in range(kills):
        process, pipe = started(place, f"k{kill}", 1_000_000)
        beside, other = started(place, f"b{kill}", 20)
        time.sleep(draw.uniform(0, 0.25))  # before the tables are there, in the middle of a record, between two
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = said(pipe)
        everything |= acknowledged | said(other)
        process.join()
        beside.join()
        assert beside.exitcode == 0  # who was not killed goes on
    there = kept(place)
    assert everything.items() <= there.items()
    assert len(there) <= len(everything) + kills  # at most the one under way was kept without a word
    assert len(everything) > 20 * kills
    assert intact(place)


def test_a_writer_killed_before_its_answer_is_answered_when_it_asks_again(place):
    process, pipe = started(place, "k", 1_000_000)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = said(pipe)
    process.join()
    again, pipe = started(place, "k", len(acknowledged) + 5)
    after = said(pipe)
    assert acknowledged.items() <= after.items()
    assert kept(place) == after
    again.join()
