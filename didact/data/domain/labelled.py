"""The domain ``labelled``: short texts with a class each, several tasks, for learning to classify in context."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any

from didact.data.domain.stdlib import distinct, inventory
from didact.data.domain.writing import Line, publish
from didact.errors import DataProblem

LEAST = 20  # texts of a class that is kept
SCRIPTS = range(0x80, 0x3100)  # the code points of living alphabets
FELT = 1.5  # mean of ten raters, from -4 to 4, beyond which a word is positive or negative


def labelled(folder: Path, lexicon: Path) -> dict[str, Any]:
    """Writes one file a task into ``folder``, records of ``text`` and ``label``, and returns its provenance.

    ``kinds``: names of the standard library's objects by what they are. ``modules``: its functions and methods by the
    module they are in. ``scripts``: letters by their alphabet. ``media``: file name endings by what such files hold.
    ``sentiment``: English words that ten people found positive or negative.
    """
    things = distinct(inventory())
    named = [each for each in things if each.kind in ("function", "class", "exception", "module")]
    called = [each for each in things if each.kind in ("function", "method")]
    tasks = {
        "kinds": ((last(each.id), each.kind) for each in named),
        "modules": ((last(each.id), each.id.split(".")[0]) for each in called),
        "scripts": letters(),
        "media": ((ending, kind.split("/")[0]) for ending, kind in MimeTypes(()).types_map[True].items()),
        "sentiment": words(lexicon),
    }
    files = {f"{name}.jsonl": records(pairs) for name, pairs in tasks.items()}
    facts = {
        "domain": "labelled",
        "source": "this Python's standard library and Unicode tables; the VADER lexicon of PyPI vaderSentiment 3.3.2",
        "licence": "PSF-2.0; MIT (VADER)",
        "unicode": unicodedata.unidata_version,
    }
    return publish(folder, files, facts)


def last(name: str) -> str:
    """The object's own name, without those of what it is in."""
    return name.rpartition(".")[2]


def letters() -> Iterable[tuple[str, str]]:
    """(letter, alphabet), by the first word of the letter's name."""
    for letter in map(chr, SCRIPTS):
        if unicodedata.category(letter) in ("Ll", "Lo") and (name := unicodedata.name(letter, "")):
            yield letter, name.split()[0].lower()


def words(lexicon: Path) -> Iterable[tuple[str, str]]:
    """(word, positive or negative), of words that most raters agree on."""
    for number, line in enumerate(lexicon.read_text(encoding="utf-8").splitlines(), 1):
        word, *rest = line.split("\t")
        if len(rest) != 3:
            raise DataProblem("not a line of the lexicon", where=f"{lexicon}:{number}", remedy="fetch it again")
        if word.isalpha() and abs(float(rest[0])) >= FELT:
            yield word, "positive" if float(rest[0]) > 0 else "negative"


def records(pairs: Iterable[tuple[str, str]]) -> list[Line]:
    """Each text once, where it is of one class alone, of the classes with enough of them."""
    labels: dict[str, set[str]] = defaultdict(set)
    for text, label in pairs:
        labels[text].add(label)
    single: Mapping[str, str] = {text: min(of) for text, of in labels.items() if len(of) == 1}
    count: dict[str, int] = defaultdict(int)
    for label in single.values():
        count[label] += 1
    return [{"text": text, "label": label} for text, label in single.items() if count[label] >= LEAST]
