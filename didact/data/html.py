"""The readable text of a web page, and where its links lead."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from selectolax.lexbor import LexborHTMLParser, LexborNode

UNREAD = {"head", "script", "style", "noscript", "template", "iframe", "object", "svg", "canvas", "select", "textarea"}
PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "ul", "ol", "dl", "table", "section"}
PARAGRAPHS |= {"article", "header", "footer", "main", "nav", "aside", "figure", "hr", "form", "details"}
LINES = PARAGRAPHS | {"div", "li", "dt", "dd", "tr", "br", "caption", "figcaption", "summary", "address", "legend"}
CELLS = {"td", "th"}
DEEP = 512  # tags in each other, as in browsers; the time of the parser grows with the square
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*>?")
UNCLOSED = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
UNCLOSED |= {"p", "li", "dt", "dd", "tr", "td", "th", "option"}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}


@dataclass(frozen=True)
class Outlined:
    """A page's readable text, its title, and where in the text headings (``h1`` ...) and ``pre`` stand, in order."""

    text: str
    title: str
    marks: tuple[tuple[str, int, int], ...]


class _Page:
    """Lines of text, an empty one between paragraphs, and the links, headings and ``pre`` met on the way."""

    def __init__(self) -> None:
        self.links: list[tuple[str, int, int]] = []  # where to, in which line, and how far into it
        self.lines: list[str] = []
        self.words: list[str] = []
        self.marked: list[tuple[str, int]] = []  # a tag and the number of its line

    def edge(self, tag: str, ends: bool = False) -> None:
        """Ends what the tag's start or end ends: a word, a line or a paragraph."""
        if tag in CELLS:
            self.words.append(" ")
        if tag in LINES:
            line = re.sub(r"\s+", " ", "".join(self.words)).strip()
            self.words.clear()
            if line and ends and tag in HEADINGS:
                self.marked.append((tag, len(self.lines)))
            self.lines += [line] if line else []
        if tag in PARAGRAPHS and self.lines and self.lines[-1]:
            self.lines.append("")

    def settled(self) -> tuple[str, list[int]]:
        """The text, and where in it each line begins."""
        whole = "\n".join(self.lines)
        first = len(whole.lstrip("\n")) - len(whole)  # an empty ``pre`` may open the page
        return whole.strip("\n"), list(accumulate((len(line) + 1 for line in self.lines), initial=first))

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
    page = _page(LexborHTMLParser(flat(html)))
    text, begin = page.settled()
    return text, [(href, min(max(begin[line] + said, 0), len(text))) for href, line, said in page.links]


def outlined(html: str) -> Outlined:
    """The text that ``readable`` gives, and its structure."""
    parsed = LexborHTMLParser(flat(html))
    page, title = _page(parsed), parsed.css_first("head title")
    text, begin = page.settled()
    marks = tuple((tag, begin[line], begin[line] + len(page.lines[line])) for tag, line in page.marked)
    return Outlined(text, " ".join(title.text().split()) if title else "", marks)


def flat(html: str) -> str:
    """The page without the tags that stand in more than ``DEEP`` others; where one of a block stood, the line ends."""
    if html.count("<") <= DEEP:
        return html
    opened, dropped, deep = Counter[str](), Counter[str](), 0

    def kept(found: re.Match[str]) -> str:
        nonlocal deep
        name, ends = found[2].lower(), bool(found[1])
        if name in UNCLOSED or name in UNREAD or (ends and not opened[name] + dropped[name]):
            return found[0]
        count = dropped if (dropped[name] if ends else deep >= DEEP) else opened
        count[name] += -1 if ends else 1
        if count is opened:
            deep += -1 if ends else 1
            return found[0]
        return "<br>" if name in LINES else ""

    return TAG.sub(kept, html)


def _page(parsed: LexborHTMLParser) -> _Page:
    """The main part where it says something, else the whole."""
    found = (_read(root) for root in (parsed.css_first("main, [role=main]"), parsed.body))
    return next((page for page in found if any(page.lines)), _Page())


def _read(root: LexborNode | None) -> _Page:
    page = _Page()
    rest: list[LexborNode | str] = [] if root is None else [root]
    while rest:  # a stack and not recursion: pages nest as deep as they like
        node = rest.pop()
        if isinstance(node, str):
            page.edge(node, ends=True)
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
                page.marked += [(tag, len(page.lines) - 1)] if page.lines[-1] else []
            rest.append(tag)
            rest.extend([] if tag == "pre" else reversed(list(node.iter(include_text=True))))
    page.edge("p")
    return page
