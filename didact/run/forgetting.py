"""What a stage costs of what the model knew: bits per byte of general text, before and after."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from didact.data.corpus import Corpus, in_memory
from didact.data.example import Document
from didact.engine.durable import on_disk
from didact.engine.evaluate import Score
from didact.run.folder import replace
from didact.text.render import Renderer

PASSAGE = 400  # characters of each topic
TOKENS = 4096  # so that even a large model reads them in seconds


def general_text(renderer: Renderer, most: int = TOKENS) -> Corpus:
    """The openings of the language reference's topics, in plain English, which every Python carries with it.

    They come to at most ``most`` tokens, or are a single one.
    """
    from pydoc_data.topics import topics  # type: ignore[import-not-found]

    passages = [" ".join(text.split())[:PASSAGE] for _, text in sorted(topics.items())]
    count = 0
    kept: list[Document] = []
    for number, read in enumerate(renderer.documents(passages)):
        count += len(read.tokens)
        if kept and count > most:
            break
        kept.append(Document(f"pydoc_data.topics:{number + 1}", passages[number]))
    return in_memory(kept, renderer)


def remembered(cache: Path, parts: Sequence[str], score: Callable[[], Score]) -> Score:
    """The score that all of ``parts`` decide, from the cache where it was taken before."""
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    path = cache / "forgetting" / f"{key}.json"
    if path.exists():
        return Score(**json.loads(path.read_text()))
    found = score()
    with on_disk(path.parent, "keep this score"):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(asdict(found)))
    return found
