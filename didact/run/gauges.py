"""What a stage of alignment measured, drawn: a curve a gauge, and the rewards against the square root of the KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from didact.measure.gaming import Gao, gao
from didact.run import plots

MARK = "gauge/"
UNITS = {
    "kl": "KL (nats a token)",
    "kl_answer": "KL (nats an answer)",
    "entropy": "entropy (nats a token)",
    "length": "length (tokens an answer)",
    "reward": "reward trained on",
    "clip_fraction": "share of tokens clipped",
    "no_signal": "share of groups alike",
    "mismatch": "sampler mismatch (nats)",
    "chosen_logprob": "chosen answers (nats)",
    "chosen_token": "chosen answers (nats a token)",
    "rejected_logprob": "rejected answers (nats)",
    "margin": "margin",
    "accuracy": "accuracy",
    "distinct": "distinct n-grams",
}
Records = Sequence[Mapping[str, Any]]


def names(records: Records) -> list[str]:
    """The gauges of a metrics file, as ``gauge/task/term``, in the order they came."""
    return list(dict.fromkeys(name for record in records for name in record if name.startswith(MARK)))


def curves(records: Records, x: str, label: str, name: str) -> list[str]:
    """A small curve of each gauge, as SVG."""
    found = names(records)
    tasks = {one.split("/")[1] for one in found}
    drawn = []
    for number, gauge in enumerate(found):
        line = plots.series([dict(record) for record in records], x, gauge)
        if line.known:
            drawn.append(plots.small(line, _title(gauge, len(tasks) > 1), label, f"{name}g{number}", wide=False))
    return drawn


def _title(gauge: str, several: bool) -> str:
    _, task, term = gauge.split("/", 2)
    title = UNITS.get(term, term.replace("_", " "))
    return f"{task}: {title}" if several else title


def rewards(records: Records, name: str) -> list[tuple[str, str, list[str]]]:
    """Of each task with a KL and a reward: the picture, wide and narrow, and what the fits say, a line a reward."""
    found = []
    for number, task in enumerate(dict.fromkeys(one.split("/")[1] for one in names(records))):
        of = [one for one in names(records) if one.startswith(f"{MARK}{task}/")]
        score, heldout = f"{MARK}{task}/reward", next((one for one in of if "/reward/heldout" in one), None)
        if f"{MARK}{task}/kl_answer" not in of or score not in of:
            continue
        wanted = [score] if heldout is None else [score, heldout]
        columns = {
            one: np.array([record.get(one, np.nan) for record in records])
            for one in [f"{MARK}{task}/kl_answer", *wanted]
        }
        kl = columns.pop(f"{MARK}{task}/kl_answer")
        root = np.sqrt(np.clip(kl, 0, None))
        if not np.isfinite(root).any():
            continue
        fits = {one: gao(kl.tolist(), column.tolist()) for one, column in columns.items()}
        lines = [(column, _curve(fits[one])) for one, column in columns.items()]
        wide = plots.against_kl(root, lines, 736, 300, f"{name}k{number}w")
        narrow = plots.against_kl(root, lines, 350, 240, f"{name}k{number}n")
        said = [_said(one.split("/", 2)[2], fit, float(np.nanmax(root))) for one, fit in fits.items() if fit]
        found.append((wide, narrow, said))
    return found


def _curve(fit: Gao | None) -> Any:
    return None if fit is None else lambda d: fit.start + fit.gain(d)


def _said(term: str, fit: Gao, seen: float) -> str:
    """What a fit says of its reward."""
    what = "the reward that is trained on" if term == "reward" else f"{term}, which is not trained on"
    if fit.peak is None:
        return f"{what}: no peak in sight up to \u221aKL {seen:.2f}"
    if fit.peak > seen:
        return f"{what}: the fit puts its peak at \u221aKL {fit.peak:.2f}, beyond the {seen:.2f} that was seen"
    return f"{what}: highest at \u221aKL {fit.peak:.2f}, and the run went on to {seen:.2f}; stop earlier or raise beta"
