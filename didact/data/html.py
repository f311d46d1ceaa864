"""The readable text of a web page, and where its links lead."""

from __future__ import annotations

import re
from itertools import accumulate

from selectolax.lexbor import LexborHTMLParser, LexborNode

UNREAD = {"head", "script", "style", "noscript", "template", "iframe", "object", "svg", "canvas", "select", "textarea"}
PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "ul", "ol", "dl", "table", "section"}
PARAGRAPHS |= {"article", "header", "footer", "main", "nav", "aside", "figure", "hr", "form", "details"}
LINES = PARAGRAPHS | {"div", "li", "dt", "dd", "tr", "br", "caption", "figcaption", "summary", "address", "legend"}
CELLS = {"td", "th"}


class _Page:
    """Lines of text, an empty one between paragraphs, and the links met on the way."""

    def __init__(self) -> None:
        self.links: list[tuple[str, int, int]] = []  # where to, in which line, and how far into it
        self.lines: list[str] = []
        self.words: list[str] = []

    def edge(self, tag: str) -> None:
        """Ends what the tag's start or end ends: a word, a line or a paragraph."""
        if tag in CELLS:
            self.words.append(" ")
        if tag in LINES:
            line = re.sub(r"\s+", " ", "".join(self.words)).strip()
            self.words.clear()
            self.lines += [line] if line else []
        if tag in PARAGRAPHS and self.lines and self.lines[-1]:
            self.lines.append("")

    def lead(self, link: LexborNode) -> None:
        """Notes a link that begins here, or stood somewhere in the line that has just ended."""
        if "href" in link.attributes:
            said = len(re.sub(r"\s+", " ", "".join(self.words)).lstrip())
            self.links.append((link.attributes["href"] or "", len(self.lines), said))


def readable(html: str) -> tuple[str, list[tuple[str, int]]]:
    """Text as a reader sees it, and the ``href`` of every link in it with its place in the text, in their order.

    A line a block, a blank line between paragraphs, ``pre`` kept as it is. Where the page marks its main part, that is
    all of it: menus say the same on every page. Scripts, styles, comments, form fields and the head are left out. Empty
    where nothing is readable.
    """
    parsed = LexborHTMLParser(html)
    return _read(parsed.css_first("main, [role=main]")) or _read(parsed.body) or ("", [])


def _read(root: LexborNode | None) -> tuple[str, list[tuple[str, int]]] | None:
    page = _Page()
    rest: list[LexborNode | str] = [] if root is None else [root]
    while rest:  # a stack and not recursion: pages nest as deep as they like
        node = rest.pop()
        if isinstance(node, str):
            page.edge(node)
        elif node.tag == "-text":
            page.words.append(node.text(deep=False))
        elif node.tag not in UNREAD and not node.is_comment_node:
            tag = node.tag or ""
            page.edge(tag)
            if tag == "a":
                page.lead(node)
            if tag == "pre":
                for link in node.css("a[href]"):  # its line begins with the whole of it
                    page.lead(link)
                page.lines += [node.text().strip("\n")]
            rest.append(tag)
            rest.extend([] if tag == "pre" else reversed(list(node.iter(include_text=True))))
    page.edge("p")
    text = "\n".join(page.lines).strip("\n")
    begin = [0, *accumulate(len(line) + 1 for line in page.lines)]  # of each line in the text
    links = [(href, min(begin[line] + said, len(text))) for href, line, said in page.links]
    return (text, links) if text else None
