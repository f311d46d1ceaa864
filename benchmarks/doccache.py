"""Time to the first token behind a document: ``python benchmarks/doccache.py [--base smollm2-135m-instruct]``.

A question follows a document that is read again, that was read before and is kept in memory, or that comes from disk.
The three run in turns; the table shows medians in milliseconds, what the disk form saves, and the bytes kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from didact.rollout.document import DocumentCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.named import open_model

FIRST = Sampling(temperature=0, max_new_tokens=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--question", type=int, default=24, help="tokens of the question")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 1024], help="tokens of the documents")
    asked = parser.parse_args()
    named = open_model(asked.base, asked.device, lambda line: print(line, file=sys.stderr))
    sampler = Sampler(named.model, named.renderer.decode, [])
    print(f"{asked.base}, {named.model.net.dtype}, question of {asked.question} tokens; median of {asked.repeats}")
    print("tokens   again ms  memory ms    disk ms   saved       kept")
    with tempfile.TemporaryDirectory() as folder:
        for size in asked.tokens:
            print(line(sampler, size, asked, Path(folder) / f"{size}.safetensors"), flush=True)


def line(sampler: Sampler, size: int, asked: argparse.Namespace, path: Path) -> str:
    """One row of the table."""
    document, question = ([(i * 7919 + 13) % 40000 for i in range(count)] for count in (size, asked.question))
    known = DocumentCache.of(sampler.model, document, bidirectional=True)
    known.save(path)
    ways = (
        lambda: sampler.generate([[*document, *question]], FIRST),
        lambda: sampler.generate([question], FIRST, documents=[known]),
        lambda: sampler.generate([question], FIRST, documents=[DocumentCache.load(path, sampler.device)]),
    )
    turns = [[milliseconds(way) for way in ways] for _ in range(asked.repeats + 1)][1:]
    again, memory, disk = (statistics.median(side) for side in zip(*turns, strict=True))
    kept = path.stat().st_size / 1e6
    return f"{size:6d} {again:10.1f} {memory:10.1f} {disk:10.1f} {1 - disk / again:7.0%} {kept:7.1f} MB"


def milliseconds(way) -> float:
    begin = time.perf_counter()
    way()
    return 1e3 * (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
