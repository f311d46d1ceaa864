"""``didact embed``: vectors of texts, as JSON lines or one array."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import orjson

from didact.data.example import Document, Example, Texts
from didact.data.settings import Data
from didact.data.source import examples
from didact.engine.durable import on_disk
from didact.errors import DataProblem, UsageProblem
from didact.model.embed import Embedder
from didact.run.named import open_model

BATCH = 4096  # texts embedded before the first of them is written


def embed(
    name: str,
    data: str | None,
    texts: Sequence[str],
    role: str,
    dimensions: int | None,
    output: Path | None,
    device: str,
    say: Callable[[str], None],
) -> None:
    """Writes a vector a text: to stdout as ``{"text", "role", "vector"}``, a line each, or to ``output``, a .npy file.

    The texts are those given, then those of ``data``: documents in the role given, pairs in their own.
    """
    if not texts and data is None:
        raise UsageProblem("there is nothing to embed", remedy="give --text or --data")
    if output and output.suffix != ".npy":
        raise UsageProblem(
            "vectors are written to a .npy file", where=str(output), remedy="name it so, or leave it out"
        )
    named = open_model(name, device, say)
    made, todo = Embedder.of(named.model, named.renderer), _texts(texts, data, role)
    kept: list[np.ndarray] = []
    while batch := list(islice(todo, BATCH)):
        vectors = np.zeros((len(batch), 0), np.float32)
        for each in ("query", "document"):
            chosen = [i for i, (_, has) in enumerate(batch) if has == each]
            if chosen:
                found = made([batch[i][0] for i in chosen], each, dimensions).numpy()
                vectors = vectors if vectors.shape[1] else np.zeros((len(batch), found.shape[1]), np.float32)
                vectors[chosen] = found
        if output:
            kept.append(vectors)
            continue
        for (text, has), vector in zip(batch, vectors, strict=True):
            line = {"text": text, "role": has, "vector": vector}
            print(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    if output:
        with on_disk(output, "write the vectors"):
            np.save(output, np.concatenate(kept))
        say(f"{output}: {sum(map(len, kept)):,} vectors of {kept[0].shape[1]} numbers")


def _texts(given: Sequence[str], data: str | None, role: str) -> Iterator[tuple[str, str]]:
    """Texts with their roles."""
    yield from ((text, role) for text in given)
    for source in examples(Data.model_validate(data), {}, 0) if data else ():
        for example in source:
            yield from _roles(example, role)


def _roles(example: Example, role: str) -> list[tuple[str, str]]:
    match example:
        case Document():
            return [(example.text, role)]
        case Texts() if "text" not in example.roles:
            return list(zip(example.texts, example.roles, strict=True))
        case _:
            what = "a conversation or a completion is no text to embed"
            raise DataProblem(what, where=example.where, remedy="give documents, or anchor and positive")
