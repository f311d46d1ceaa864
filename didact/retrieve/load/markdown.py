"""Plain text and Markdown: the text is kept as it is, only its structure is found."""

import re

from didact.retrieve.extract import Block, Extract, Outline, first_heading, lines, paragraphs

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
HEADING = 1000  # characters of a line from which on it is no heading
FRONT = re.compile(r"---\n(?:.*\n)*?(?:---|\.\.\.)(?:\n|$)")


def plain(text: str) -> Extract:
    """Paragraphs, and no more."""
    return Extract(text, tuple(paragraphs(text)), "text")


def markdown(text: str) -> Extract:
    """Headings of both styles, fenced code, paragraphs; a block of settings at the very top counts as code."""
    found = blocks(text)
    titled = next((block for block in found if block.kind == "heading"), None)
    title = first_heading(found) or (titled.path[-1] if titled and titled.path and len(titled.path) == 1 else "")
    return Extract(text, tuple(found), "markdown", title)


def blocks(text: str, outline: Outline | None = None, offset: int = 0) -> list[Block]:
    """The blocks of Markdown that begins at ``offset`` of a document, under the headings already open."""
    outline, found = outline or Outline(), list[Block]()
    front = FRONT.match(text) if not offset else None
    fence, begin, gathered = "", 0, front.end() if front else 0  # gathered: from where paragraphs are still to be cut
    if front:
        found.append(Block("code", (), 0, front.end()))

    def gather(end: int) -> None:
        found.extend(paragraphs(text[gathered:end], outline.path, start=offset + gathered))

    before: tuple[int, str] = (0, "")  # the line before: what a setext underline makes a heading
    for start, end, line in lines(text):
        if start < gathered:
            continue
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                found.append(Block("code", outline.path, offset + begin, offset + end))
                fence, gathered, before = "", end + 1, (end + 1, "")
            continue
        short = len(line) < HEADING
        atx, setext = ATX.fullmatch(line) if short else None, SETEXT.fullmatch(line) if short else None
        if mark and "`" not in line[mark.end() :]:
            gather(start)
            fence, begin, gathered = mark[1], start, start
        elif atx:
            gather(start)
            path = outline.heading(len(atx[1]), (atx[2] or "").strip())
            found.append(Block("heading", path, offset + start, offset + end))
            gathered, line = end + 1, ""
        elif setext and before[1].strip() and before[1].lstrip()[0] not in ">-*|":
            gather(before[0])
            path = outline.heading(1 if "=" in line else 2, before[1].strip())
            found.append(Block("heading", path, offset + before[0], offset + end))
            gathered, line = end + 1, ""
        before = (start, line if len(line) < HEADING else "")
    if fence:  # never closed: the rest is code
        found.append(Block("code", outline.path, offset + begin, offset + len(text)))
    else:
        gather(len(text))
    return found
