"""Documents to passages: cut where the author did, every character of them kept in its place."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from didact.retrieve.extract import Block, Extract

SENTENCE = re.compile(r"[.!?…][\"')\]]*\s+|[\u3002\uff01\uff1f]")  # the full stops of Chinese and Japanese, too


@dataclass(frozen=True)
class Span:
    """One passage, ``text[start:end]``, and the headings that its beginning stands under."""

    start: int
    end: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class _Unit:
    """What is kept together: blocks, or a piece of one that is too long; ``fresh`` where a section begins."""

    start: int
    end: int
    path: tuple[str, ...]
    fresh: bool


def cut(document: Extract, size: int, overlap: int) -> list[Span]:
    """Passages of at most ``size`` characters that together hold all text but white space, in order.

    A heading stays with what follows it and code stays whole wherever ``size`` allows. A section that begins when a
    passage is half full begins the next. Where a passage goes on with the section of the one before, it repeats up to
    ``overlap`` of its last characters, from a word's beginning.
    """
    text, found = document.text, list[Span]()
    units = list(_units(document, size, size - overlap))
    number = 0
    while number < len(units):
        first = units[number]
        start = first.start
        if found and not first.fresh:
            start = _back(text, max(first.start - overlap, first.end - size, found[-1].start + 1), first.start)
        end = first.end
        number += 1
        while number < len(units) and units[number].end - start <= size:
            if units[number].fresh and 2 * (end - start) >= size:
                break
            end = units[number].end
            number += 1
        found.append(Span(start, end, first.path))
    return found


def _units(document: Extract, size: int, limit: int) -> Iterator[_Unit]:
    """Headings with what follows them, everything else by itself; longer than ``size``, in pieces of ``limit``."""
    text = document.text
    blocks = [trimmed for block in document.blocks if (trimmed := _trimmed(text, block))]
    held: list[Block] = []  # headings waiting for what they stand over
    path: tuple[str, ...] = ()
    for block in blocks:
        section = block.kind == "code" and block.path != path  # a definition begins without a heading
        path = block.path
        if block.kind == "heading":
            held.append(block)
            continue
        start, fresh = (held[0].start, True) if held else (block.start, section)
        whole_code = block.kind == "code" and block.end - block.start <= size
        if held and whole_code and block.end - start > size:
            yield from _pieces(text, _merged(held, held[-1].end), limit, False, True)
            start, fresh = block.start, False
        held.clear()
        one = Block(block.kind, block.path, start, block.end)
        yield from (
            [_Unit(one.start, one.end, one.path, fresh)]
            if one.end - one.start <= size
            else _pieces(text, one, limit, block.kind == "code", fresh)
        )
    if held:
        yield from _pieces(text, _merged(held, held[-1].end), limit, False, True)


def _merged(held: Sequence[Block], end: int) -> Block:
    return Block("heading", held[-1].path, held[0].start, end)


def _trimmed(text: str, block: Block) -> Block | None:
    """Without white space around it, None where nothing is left; the indent of code's first line stays."""
    inside = text[block.start : block.end]
    if not inside.strip():
        return None
    left = len(inside) - len(inside.lstrip())
    if block.kind == "code":
        left = inside.rfind("\n", 0, left) + 1
    return Block(block.kind, block.path, block.start + left, block.start + len(inside.rstrip()))


def _pieces(text: str, block: Block, limit: int, code: bool, fresh: bool) -> Iterator[_Unit]:
    """A block in pieces of at most ``limit`` characters, cut where it hurts least."""
    start = block.start
    while start < block.end:
        end = block.end if block.end - start <= limit else start + _where(text[start : start + limit], code)
        inside = text[start:end]
        if inside.strip():
            yield _Unit(start, start + len(inside.rstrip()), block.path, fresh)
            fresh = False
        start = end
        while not code and start < block.end and text[start].isspace():
            start += 1


def _where(window: str, code: bool) -> int:
    """Where to cut: after a paragraph, a sentence, a line or a word in the latter half, else at the very end."""
    half = len(window) // 2
    ends = [window.rfind("\n\n", half) + 2]
    ends += [] if code else [max((found.end() for found in SENTENCE.finditer(window, half)), default=0)]
    ends += [window.rfind("\n", half) + 1, window.rfind(" ", half) + 1]
    return next((end for end in ends if end > half), len(window))


def _back(text: str, earliest: int, start: int) -> int:
    """The first beginning of a word from ``earliest`` on; ``start`` where there is none before it."""
    for place in range(earliest, start):
        if not text[place].isspace() and (place == 0 or text[place - 1].isspace()):
            return place
    return start
