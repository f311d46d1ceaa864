"""Web pages, as a reader sees them."""

import re
from collections import Counter

from didact.data.html import outlined
from didact.errors import DataProblem
from didact.retrieve.extract import Block, Extract, Outline, paragraphs

DEEP = 4096  # tags in each other; the time a parser takes grows with the square
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
UNCLOSED = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
UNCLOSED |= {"p", "li", "dt", "dd", "tr", "td", "th", "option"}


def html(page: str, where: str) -> Extract:
    """The page's readable text; headings are h1 to h6, code is what stands in ``pre``.

    Raises DataProblem for a page made to stall its reader.
    """
    if _depth(page) > DEEP:
        raise DataProblem(f"nests more than {DEEP:,} tags in each other", where=where, remedy="leave it out")
    read = outlined(page)
    outline, found, done = Outline(), list[Block](), 0

    def gather(end: int) -> None:
        found.extend(paragraphs(read.text[done:end], outline.path, start=done))

    for tag, start, end in read.marks:
        gather(start)
        if tag == "pre":
            found.append(Block("code", outline.path, start, end))
        else:
            found.append(Block("heading", outline.heading(int(tag[1]), read.text[start:end]), start, end))
        done = end
    gather(len(read.text))
    headed = next((block.path[-1] for block in found if block.kind == "heading"), "")
    return Extract(read.text, tuple(found), "html", read.title or headed)


def _depth(page: str) -> int:
    """How deep tags may stand in each other, at most: those opened and not yet closed, each name by itself."""
    opened: Counter[str] = Counter()
    deep = deepest = 0
    for found in TAG.finditer(page):
        name = found[2].lower()
        if name in UNCLOSED or (found[1] and not opened[name]):
            continue
        change = -1 if found[1] else 1
        opened[name] += change
        deep += change
        deepest = max(deepest, deep)
    return deepest
