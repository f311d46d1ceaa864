"""What a loader makes of a file: its text, and where in it headings, paragraphs and code stand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["heading", "paragraph", "code"]


@dataclass(frozen=True)
class Block:
    """A stretch of the text, ``text[start:end]``, and the headings above it, the outermost first.

    A heading's own path ends with itself.
    """

    kind: Kind
    path: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Extract:
    """One document: its text and the blocks that cover all of it but white space, in order.

    ``source`` is a record's id, empty for a file that is one document; ``note`` is what was not read of it.
    """

    text: str
    blocks: tuple[Block, ...]
    kind: str
    title: str = ""
    source: str = ""
    note: str = ""


class Outline:
    """The headings in force while a document is read from top to bottom."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def heading(self, level: int, title: str) -> tuple[str, ...]:
        """Opens a heading, which closes those of its level and below; its path."""
        self._open = [*((depth, name) for depth, name in self._open if depth < level), (level, title)]
        return self.path

    @property
    def path(self) -> tuple[str, ...]:
        """The titles, the outermost first."""
        return tuple(name for _, name in self._open if name)


def lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Each line with its span, the line break left out."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, end, text[start:end]
        start = end + 1


def paragraphs(text: str, path: tuple[str, ...] = (), kind: Kind = "paragraph", start: int = 0) -> list[Block]:
    """Stretches of lines that blank lines part; ``start`` is where in the document the text begins."""
    found: list[Block] = []
    begin: int | None = None
    last = 0
    for first, end, line in lines(text):
        if line.strip():
            begin, last = first if begin is None else begin, end
        elif begin is not None:
            found.append(Block(kind, path, start + begin, start + last))
            begin = None
    return found if begin is None else [*found, Block(kind, path, start + begin, start + last)]


def first_heading(blocks: Sequence[Block]) -> str:
    """The title that a document gives itself: its first heading, where it begins with one."""
    return blocks[0].path[-1] if blocks and blocks[0].kind == "heading" and blocks[0].path else ""


def clean(text: str) -> str:
    """Text that every store and tokenizer takes: Unix line ends, no NUL and no half of a surrogate pair."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ")
    return text.encode("utf-8", "replace").decode()
