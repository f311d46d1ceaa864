"""Many streaming clients at once: ``python benchmarks/serve.py [--clients 32] [--seconds 60] [--url U --model M]``.

Starts ``didact serve`` on a free port, or takes any server of OpenAI's interface by its URL, so that the same clients
measure others: ``transformers serve --port 8000``, ``llama-server -m model.gguf -np 32``. Each client asks again as
soon as it has its answer. Prints answers, those that did not end properly, tokens a second over all clients, and the
time to the first token, median and 99th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
import openai

ASKED = "Write a short story about a {}."
THINGS = ("river", "clock", "fox", "lighthouse", "baker", "train", "garden", "storm")


@dataclass
class Tally:
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    ended: int = 0
    broken: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--url", help="a server that runs already, as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="its name for the model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer, at most")
    asked = parser.parse_args()
    if asked.url:
        measure(asked, asked.url, asked.model)
    else:
        with didact(asked.base, asked.clients) as url:
            measure(asked, url, "it")


@contextmanager
def didact(base: str, clients: int) -> Iterator[str]:
    """The URL of a server of ours that lives as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--name", "it", "--port", str(port), "--slots", str(clients), "--feedback", f"{folder}/f.sqlite"]
        server = subprocess.Popen([sys.executable, "-m", "didact", "serve", base, *options], stderr=subprocess.DEVNULL)
        try:
            while server.poll() is None:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait()


def measure(asked: argparse.Namespace, url: str, model: str) -> None:
    """Prints one line."""
    tally, begin = Tally(), time.perf_counter()
    asyncio.run(everybody(asked, url, model, tally))
    took = time.perf_counter() - begin
    median, worst = np.percentile(tally.first, [50, 99]) if tally.first else (np.nan, np.nan)
    print(f"{url}, {asked.clients} clients, {took:.0f} s: {tally.ended} answers, {tally.broken} not ended properly")
    print(f"{tally.tokens / took:.1f} tokens/s; first token after {median:.2f} s, 99% within {worst:.2f} s", flush=True)


async def everybody(asked: argparse.Namespace, url: str, model: str, tally: Tally) -> None:
    until = time.perf_counter() + asked.seconds
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        await asyncio.gather(
            *(ask(client, model, number, asked.tokens, until, tally) for number in range(asked.clients))
        )


async def ask(client: openai.AsyncOpenAI, model: str, number: int, tokens: int, until: float, tally: Tally) -> None:
    """One client; an answer under way when time is up is read to its end."""
    messages = [{"role": "user", "content": ASKED.format(THINGS[number % len(THINGS)])}]
    while time.perf_counter() < until:
        begin, first, reason = time.perf_counter(), None, None
        options = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True}
        try:
            async for chunk in await client.chat.completions.create(**options):
                if chunk.choices and chunk.choices[0].delta.content:
                    first = first or time.perf_counter() - begin
                    tally.tokens += 1
                reason = (chunk.choices and chunk.choices[0].finish_reason) or reason
        except openai.OpenAIError:
            reason = None
        tally.ended += reason is not None
        tally.broken += reason is None
        if first is not None:
            tally.first.append(first)


if __name__ == "__main__":
    main()
