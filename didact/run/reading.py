"""A document read once for all that will be asked about it: the pass that embeds it is kept in the cache folder."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from didact.data.example import Document
from didact.data.settings import Data
from didact.data.source import examples
from didact.engine.durable import on_disk
from didact.errors import DataProblem, UsageProblem
from didact.rollout.document import DocumentCache, mark
from didact.run.named import Named

SHARE = 0.75  # of the model's context, at most; the rest is for the conversation


def read_once(named: Named, data: str, longest: int, cache: Path, say: Callable[[str], None]) -> DocumentCache:
    """The document that ``data`` names, as the model embeds it where it does and causally where it does not.

    Raises DataProblem where there is not one document, UsageProblem for one that leaves no room in the context.
    """
    found = [each for source in examples(Data.model_validate(data), {}, 0) for each in source]
    if len(found) != 1 or not isinstance(found[0], Document):
        what = f"{len(found)} examples, not one document"
        raise DataProblem(what, where=data, remedy="name a text file, or a page")
    reading = named.model.served.get("embedding", {})
    tokens = named.renderer.embedding(named.model.served).embedded(found[0].text, "document").tokens
    if len(tokens) > SHARE * longest:
        what = f"{len(tokens):,} tokens; beside a conversation this model takes {int(SHARE * longest):,}"
        raise UsageProblem(what, where=data, remedy="shorten the document")
    bidirectional = bool(reading.get("bidirectional", False))
    key = hashlib.sha256(f"{mark(named.model)} {bidirectional} {tokens}".encode()).hexdigest()[:32]
    path = cache / "documents" / f"{key}.safetensors"
    device = next(named.model.parameters()).device
    if path.is_file():
        say(f"{data}: {len(tokens):,} tokens, read before")
        return DocumentCache.load(path, device)
    known = DocumentCache.of(named.model, tokens, bidirectional)
    with on_disk(path, "keep the document"):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        known.save(beside)
        beside.replace(path)
    say(f"{data}: {len(tokens):,} tokens read{' in both directions' if bidirectional else ''}, kept for next time")
    return known
