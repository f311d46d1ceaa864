"""From documents to files of pairs: read, link, hold out, draw, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from didact.data.domain.writing import held_out, publish
from didact.data.links.graph import Links, linked, nearest
from didact.data.links.pages import pages
from didact.data.links.pairs import Drawing, Pair, balance, exchanged, segments
from didact.data.settings import Pairing
from didact.data.source import SourceExamples
from didact.errors import DataProblem


def build(
    sources: Sequence[SourceExamples], plan: Pairing, seed: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Writes ``pairs.jsonl`` and ``documents.jsonl``, each also ``.heldout``, and returns their provenance.

    No document is on both sides, and no link between the sides is used. Raises DataProblem where no pair can be made.
    """
    found = [page for source in sources for page in pages(source, plan.graph)]
    where = ", ".join(source.source.path for source in sources)
    apart = {i for i, page in enumerate(found) if held_out(page.name, seed, plan.holdout)}
    whole = None if plan.graph == "neighbours" else linked(found)
    if whole:
        say(
            f"{len(found):,} documents with {whole.count:,} links between them; {whole.broken:,} more are broken, "
            f"{whole.outside:,} lead elsewhere"
        )
    if plan.anchored and (whole is None or not any(map(len, whole.places))):
        what = "no link has a place in its text"
        raise DataProblem(what, where=where, remedy="leave anchored out, or give pages of HTML")
    relations = possible(plan.relations, whole, where, say)
    files: dict[str, list[dict[str, Any]]] = {}
    for suffix, chosen in (("", set(range(len(found))) - apart), (".heldout", apart)):
        if suffix and not plan.holdout:
            continue
        side = whole.among(chosen) if whole else nearest([found[i] for i in sorted(chosen)], plan.neighbours)
        pairs = drawn(side, relations, plan, seed, where, suffix, say)
        files[f"pairs{suffix}.jsonl"] = [pair.record() for pair in pairs]
        if not suffix:
            files["exchanged.jsonl"] = [pair.record() for pair in exchanged(pairs)]
        files[f"documents{suffix}.jsonl"] = [{"text": page.text, "id": page.name} for page in side.pages]
    return publish(
        folder, files, {"graph": plan.graph, "relations": list(relations), "holdout": plan.holdout, "seed": seed}
    )


def possible(relations: Sequence[str], links: Links | None, where: str, say: Callable[[str], None]) -> tuple[str, ...]:
    """The relations that the documents allow: without a single link, those that need none, said aloud."""
    if links is None or links.count or "linked" not in relations:
        return tuple(relations)
    rest = tuple(relation for relation in relations if relation != "linked")
    if not rest:
        raise DataProblem("no document points at another", where=where, remedy="set graph: neighbours")
    say(f"{where}: no document points at another, so pairs are {' and '.join(rest)} only; or set graph: neighbours")
    return rest


def drawn(
    links: Links,
    relations: Sequence[str],
    plan: Pairing,
    seed: int,
    where: str,
    side: str,
    say: Callable[[str], None],
) -> list[Pair]:
    """The pairs of one side."""
    drawing = Drawing(links, [segments(page.text, plan.segment) for page in links.pages], plan.anchored)
    pairs = list(drawing.pairs(relations, plan.passes, seed))
    name = "held-out documents" if side else "documents"
    if not pairs:
        what = f"no segment of the {len(links.pages):,} {name} can be first in a pair of every relation"
        remedy = "raise holdout, or set it to 0" if side else "lower segment, or name fewer relations"
        raise DataProblem(f"{what} ({', '.join(relations)})", where=where, remedy=remedy)
    every, able = sum(map(len, drawing.segments)), len(pairs) // plan.passes
    left = f"; {every - able:,} of {every:,} segments cannot be first in each" if able < every else ""
    say(f"{len(links.pages):,} {name}: pairs {balance(pairs)}{left}")
    return pairs
