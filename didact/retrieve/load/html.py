"""Web pages, as a reader sees them."""

from didact.data.html import outlined
from didact.retrieve.extract import Block, Extract, Outline, paragraphs


def html(page: str, where: str) -> Extract:
    """The page's readable text; headings are h1 to h6, code is what stands in ``pre``."""
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
