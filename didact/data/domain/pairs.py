"""Texts that belong together: what an object does and the rest of its page, a question and the page that answers it."""

import re

from didact.data.domain.prose import Thing, joined, sentences
from didact.data.domain.writing import Line


def described(thing: Thing, here: str) -> Line | None:
    """The first sentence of the documentation as the anchor, the page without it as the positive.

    None where the sentence has the object's own name among its words, which would give the page away. ``here`` says
    what kind of object it is and where it lives.
    """
    first, *following = re.split(r"\n\s*\n", thing.body)
    said = next(sentences(joined(first)), "")
    name = thing.id.rpartition(".")[2].strip("_").lower()
    if not said or name in re.findall(r"\w+", said.lower()):
        return None
    rest = [joined(first)[len(said) :].strip(), *following]
    call = [f"```python\n{thing.call}\n```"] if thing.call else []
    page = [f"# {thing.id}", *call, f"{here[0].upper()}{here[1:]}.", *filter(None, rest)]
    return {"anchor": said, "positive": "\n\n".join(page), "id": thing.id}


def asked_of(question: Line, document: Line) -> Line:
    """A question and the page that answers it."""
    return {"anchor": question["messages"][0]["content"], "positive": document["text"], "id": document["id"]}
