"""``didact index`` and ``didact search``. What only a model needs is imported where it is needed: words are quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import orjson

from didact.data.fetch import ASSETS
from didact.data.settings import Data
from didact.data.source import SourceExamples, examples
from didact.data.words import listed
from didact.errors import UsageProblem
from didact.retrieve.build import build
from didact.retrieve.embedding import Embedding, load
from didact.retrieve.index import Index, Mode, Passage, Rerank
from didact.retrieve.settings import OVERLAP, SUFFIXES, Indexing

Say = Callable[[str], None]


def named_embedding(embedder: str, device: str, say: Say) -> Embedding | None:
    """The model by the name a person gave, None for ``none``."""
    if embedder == "none":
        return None
    from didact.run.named import locate

    folder = locate(embedder, say)  # fetches an asset, and says so
    return load(embedder if embedder in ASSETS else str(folder.resolve()), device)


def index_files(paths: Sequence[str], out: str, embedder: str, size: int, overlap: int, device: str, say: Say) -> None:
    """``didact index``: makes the index in ``out``, a folder or a server's URL, hold the documents under ``paths``."""
    if overlap > size // OVERLAP:
        raise UsageProblem(f"--overlap {overlap} is more than a third of --size {size}")
    settings = Indexing(embedder=embedder, size=size, overlap=overlap)
    if embedder == "model":
        raise UsageProblem("there is no model so far outside a recipe", remedy="name a run or a checkpoint folder")
    data = Data.model_validate({"sources": [{"path": path} for path in paths]})
    sources = [_without(source, Path(out).absolute()) for source in examples(data, {}, 0, SUFFIXES)]
    for source in sources:
        if source.skipped:
            names = listed(path.name for path in source.skipped)
            say(f"{source.source.path}: left out, of a kind that is not read: {names}")
    embedding = named_embedding(embedder, device, say)
    say(f"{out}: {told(build(sources, out, settings, embedding, say))}")


def _without(source: SourceExamples, folder: Path) -> SourceExamples:
    """The source without the files of the index itself."""
    files, skipped = (
        tuple(file for file in given if not file.absolute().is_relative_to(folder))
        for given in (source.files, source.skipped)
    )
    return replace(source, files=files, skipped=skipped)


def told(facts: Mapping[str, Any]) -> str:
    """What a build came to, in a line."""
    vectors = f"vectors by {facts['embedder']}" if facts["vectors"] else "no vectors"
    left = f", {len(facts['left out']):,} files left out" if facts["left out"] else ""
    return (
        f"{facts['passages']:,} passages of {facts['documents']:,} documents, {vectors}; "
        f"{facts['added']:,} documents read anew, {facts['removed']:,} removed{left}"
    )


def search(
    place: str,
    query: str | None,
    questions: str | None,
    k: int,
    mode: Mode,
    where: Sequence[str],
    rerank: str | None,
    as_json: bool,
    device: str,
    say: Say,
) -> None:
    """``didact search``: prints passages, or how good the search is at questions whose sources are known."""
    if (query is None) is (questions is None):
        raise UsageProblem("one of a question and --questions is needed")
    opened = Index.open(place, device=device)
    if questions is not None:
        from didact.run.judge import judge

        judge(opened, questions, say)
        return
    assert query is not None
    only = dict(_pair(text) for text in where)
    found = opened.search(query, k, mode=mode, where=only, rerank=_reranker(rerank, device, say))
    if not found:
        say("nothing found")
    for number, passage in enumerate(found, 1):
        print(orjson.dumps(_plain(passage)).decode() if as_json else _shown(number, passage))


def _pair(text: str) -> tuple[str, str]:
    key, mark, value = text.partition("=")
    if not mark:
        raise UsageProblem(f"--where {text!r} names no value", remedy="write it as key=value")
    return key, value


def _reranker(name: str | None, device: str, say: Say) -> Rerank | None:
    if name is None:
        return None
    from didact.retrieve.rerank import Reranker
    from didact.run.named import open_model

    named = open_model(name, device, say)
    return Reranker(named.model, named.renderer)


def _plain(passage: Passage) -> dict[str, Any]:
    """As JSON has it: no NaN."""
    fields = vars(passage)
    return fields if passage.similarity == passage.similarity else {**fields, "similarity": None}


def _shown(number: int, passage: Passage) -> str:
    place = [passage.source, *([passage.heading] if passage.heading else []), f"{passage.start}-{passage.end}"]
    return f"{number}. {' | '.join(place)} | {passage.score:.4f}\n{indent(passage.text, '   ')}\n"
