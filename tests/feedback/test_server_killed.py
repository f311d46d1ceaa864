"""The server is killed under load, again and again: what it acknowledged is there, and what was sent again is once."""

import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from didact.feedback.store import Store
from didact.serve import errors
from didact.serve.people import router
from tests.feedback.test_writers import intact, kept

fork = multiprocessing.get_context("fork")
CLIENTS = 4
ROUND = {"prompt": [{"role": "user", "content": "Why?"}], "candidates": [{"text": "a"}]}


def serve(listening: socket.socket, place: str) -> None:
    app = FastAPI()
    errors.install(app)
    app.include_router(router(Store.open(place)))
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])


def send(client: httpx.Client, path: str, body: dict, key: str) -> str:
    """The id that is answered; a request that gets no answer is sent again."""
    while True:
        try:
            response = client.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            continue
        assert response.status_code == 200, response.text
        return response.json()["id"]


def talk(url: str, name: str, acknowledged: Path, ending: str) -> None:
    """Exchanges and thumbs, one after the other, until the file ``ending`` is there."""
    with acknowledged.open("w") as file, httpx.Client(base_url=url, timeout=5) as client:
        number = 0
        while not os.path.exists(ending):
            asked = send(client, "/feedback/exchanges", ROUND, f"{name}-e{number}")
            file.write(f"{name}-e{number} {asked}\n")
            body = {"kind": "thumb", "exchange": asked, "annotator": name, "up": True}
            file.write(f"{name}-j{number} {send(client, '/feedback/judgements', body, f'{name}-j{number}')}\n")
            file.flush()
            number += 1


def wait_for_more(files: list[Path]) -> None:
    """Until somebody was answered."""
    before, until = size(files), time.monotonic() + 30
    while size(files) == before:
        assert time.monotonic() < until, "the server answers nobody"
        time.sleep(0.01)


def size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.exists())


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_server_loses_nothing_it_acknowledged(place, kills, tmp_path):
    Store.open(place).close()
    draw, ending = random.Random(kills), tmp_path / "end"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        files = [tmp_path / f"client{i}" for i in range(CLIENTS)]
        clients = [fork.Process(target=talk, args=(url, f"c{i}", files[i], str(ending))) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        for kill in range(kills + 1):
            server = fork.Process(target=serve, args=(listening, place))
            server.start()
            wait_for_more(files)
            time.sleep(draw.uniform(0, 0.2))
            if kill == kills:  # the last one is let to answer what is under way
                ending.touch()
                for client in clients:
                    client.join()
            os.kill(server.pid, signal.SIGKILL)
            server.join()
    assert [client.exitcode for client in clients] == [0] * CLIENTS
    acknowledged = dict(line.split() for file in files for line in file.read_text().splitlines())
    assert len(acknowledged) > 10 * kills
    assert kept(place) == acknowledged
    assert intact(place)
