"""Whether an answer keeps to the passages it was given."""

import re
from typing import Any, Literal

from pydantic import Field

from didact.errors import DataProblem
from didact.rollout.reward.base import Answered, Rule
from didact.text.quote import defused

PASSAGE = re.compile(r'<passage number="\d+" source="[^"]*">\n(.*?)\n</passage>', re.DOTALL)
QUOTATION = re.compile(
    r'^[ \t]*> ?(.+)$|"([^"\n]+)"|\u201c([^\u201d\n]+)\u201d|\u00ab([^\u00bb\n]+)\u00bb', re.MULTILINE
)
CITED = re.compile(r"\s*(?:\[\d+\]\s*)+$")
WORD = re.compile(r"\w+")


class Faithful(Rule):
    """The share of an answer that stands in the passages: of its ``quotes``, or of its ``words``.

    A quote is a line that begins with ``>`` or what stands between quotation marks; its words are compared, whatever
    their case and the signs between them. An answer without a quote has ``unquoted``. The passages are those that
    the prompt quotes, or the record's field ``passages``, a text or a list of texts.
    """

    kind = "faithful"
    first = "of"
    of: Literal["quotes", "words"] = "quotes"
    passages: str | None = Field(default=None, description="field of the record; else those in the prompt")
    unquoted: float = Field(default=0.0, description="what an answer without a quote is worth")

    def score(self, one: Answered) -> float:
        """Between 0 and 1."""
        texts = [_words(text) for text in self._passages(one)]
        if self.of == "words":
            known, said = {word for text in texts for word in text}, _words(CITED.sub("", one.answer))
            return sum(word in known for word in said) / len(said) if said else 0.0
        quotes = [words for words in map(_words, quotations(one.answer)) if words]
        if not quotes:
            return self.unquoted
        return sum(any(_inside(quote, text) for text in texts) for quote in quotes) / len(quotes)

    def _passages(self, one: Answered) -> list[str]:
        if self.passages is None:
            said = (message.get("content") for message in one.prompt if message["role"] != "assistant")
            found = [text for content in said if isinstance(content, str) for text in PASSAGE.findall(content)]
            if not found:
                remedy = "name the record's field that has them, as in faithful: {passages: context}"
                raise DataProblem("this prompt quotes no passages", where=one.where, remedy=remedy)
            return found
        given: Any = one.field(self.passages)
        texts = given if isinstance(given, list) else [given]
        if not all(isinstance(text, str) for text in texts):
            raise DataProblem(f"its field {self.passages!r} is no text and no list of texts", where=one.where)
        return [defused(text) for text in texts]


def quotations(answer: str) -> list[str]:
    """What an answer quotes, without the number it cites behind it."""
    return [CITED.sub("", next(filter(None, match.groups()))) for match in QUOTATION.finditer(answer)]


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _inside(part: list[str], whole: list[str]) -> bool:
    """Whether the words stand one after the other in the text."""
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
