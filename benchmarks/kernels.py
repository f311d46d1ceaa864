"""Attention and head beside torch's own: ``python benchmarks/kernels.py [--repeats 7]``.

Both sides run in turns on the same inputs, forward and backward, and the table shows medians of the turns and the
spread of their ratios. torch's side is at its best: one causal call a document, no padding and no mask. On a machine
that others use, ``--threads 1 --clock cpu`` counts processor time, which waiting does not touch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

from didact.model.attention import Sight, dispatch
from didact.model.head import logprob

HEADS, KEYS, WIDTH = 9, 3, 64  # SmolLM2-135M
VOCABULARY, HIDDEN, POSITIONS = 49152, 576, 1500


def turns(ours: Callable[[], object], theirs: Callable[[], object], asked: argparse.Namespace) -> str:
    """Median times in milliseconds of both, run in turns, and the median and range of theirs / ours."""

    def once(run: Callable[[], object], count: int) -> float:
        begin = clock()
        for _ in range(count):
            run()
        return (clock() - begin) / count

    clock = {"wall": time.perf_counter, "cpu": time.process_time}[asked.clock]
    once(ours, 1)
    count = max(1, int(0.15 / once(ours, 1)))
    once(theirs, 1)
    pairs = [(once(ours, count), once(theirs, count)) for _ in range(asked.repeats)]
    ratios = sorted(b / a for a, b in pairs)
    mine, other = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    return f"{mine:9.2f} {other:9.2f} {statistics.median(ratios):7.2f}   {ratios[0]:.2f}-{ratios[-1]:.2f}"


def attention(length: int, documents: int, dtype: torch.dtype, asked: argparse.Namespace) -> str:
    """Forward and backward of one layer's attention over a row of equal documents."""
    tokens = length * documents
    q, k, v = (torch.randn(1, tokens, n, WIDTH, dtype=dtype).transpose(1, 2) for n in (HEADS, KEYS, KEYS))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    up = torch.randn(1, tokens, HEADS, WIDTH, dtype=dtype).transpose(1, 2)
    doc = torch.arange(documents).repeat_interleave(length)[None]
    sight = Sight(doc, torch.arange(tokens)[None])

    def ours() -> object:
        return torch.autograd.grad(dispatch(q, k, v, sight, WIDTH**-0.5), (q, k, v), up)

    def theirs() -> object:
        pieces = zip(*(x.split(length, 2) for x in (q, k, v)), strict=True)
        out = [F.scaled_dot_product_attention(a, b, c, is_causal=True, enable_gqa=True) for a, b, c in pieces]
        return torch.autograd.grad(torch.cat(out, 2), (q, k, v), up)

    return turns(ours, theirs, asked)


def head(dtype: torch.dtype, asked: argparse.Namespace, frozen: bool, other: str) -> str:
    """Forward and backward of the mean cross entropy of 1,500 positions."""
    hidden = torch.randn(POSITIONS, HIDDEN, dtype=dtype, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN) * 0.05).to(dtype).requires_grad_(not frozen)
    target = torch.randint(VOCABULARY, (POSITIONS,))
    where = torch.ones(POSITIONS)
    wanted = (hidden,) if frozen else (hidden, weight)

    def ours() -> object:
        return torch.autograd.grad(-(logprob(hidden, weight, None, target, where) * where).sum() / POSITIONS, wanted)

    def full() -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight).float(), target)

    def linear() -> Tensor:
        return F.linear_cross_entropy(hidden, weight, target, options=LinearCrossEntropyOptions())

    loss = {"cross_entropy": full, "linear_cross_entropy": linear}[other]
    return turns(ours, lambda: torch.autograd.grad(loss(), wanted), asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--only", choices=["attention", "head"])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.threads} threads, {asked.clock} clock; times in ms, forward and backward")
    print(f"{'':44} {'ours':>9} {'torch':>9} {'torch/ours':>10}  range")
    for dtype in (torch.bfloat16, torch.float32):
        kind = str(dtype).removeprefix("torch.")
        if asked.only != "head":
            for length, documents in [(48, 16), (180, 8), (512, 4), (1024, 2), (2048, 1), (4096, 1)]:
                name = f"attention {documents} x {length} {kind}"
                print(f"{name:44} {attention(length, documents, dtype, asked)}", flush=True)
        if asked.only != "attention":
            for frozen in (False, True):
                for other in ("cross_entropy", "linear_cross_entropy"):
                    name = f"head {kind}{' frozen' if frozen else ''} / {other}"
                    print(f"{name:44} {head(dtype, asked, frozen, other)}", flush=True)


if __name__ == "__main__":
    main()
