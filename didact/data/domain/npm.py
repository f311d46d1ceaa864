"""The domain ``npm-docs``: the manual of npm, whose pages link to each other."""

from pathlib import Path
from typing import Any

from didact.data.domain.writing import Line, held_out, publish
from didact.data.links.pages import pages
from didact.data.settings import Data
from didact.data.source import examples


def npm_docs(folder: Path, holdout: float, seed: int, source: Path) -> dict[str, Any]:
    """Writes ``documents.jsonl`` and ``documents.heldout.jsonl``: a record a page, with the ids that it links to."""
    manual = source / "package/docs/output"
    files: dict[str, list[Line]] = {"documents.jsonl": [], "documents.heldout.jsonl": []}
    for page in pages(examples(Data.model_validate(str(manual)), {}, seed)[0], "html"):
        led = [(to, at) for to, at in zip(page.links, page.places, strict=True) if to != page.name]
        line = {"text": page.text, "id": page.name, "links": [to for to, _ in led], "places": [at for _, at in led]}
        files["documents.heldout.jsonl" if held_out(page.name, seed, holdout) else "documents.jsonl"].append(line)
    facts = {
        "domain": "npm-docs",
        "source": "the HTML manual in npm's own package",
        "licence": "Artistic-2.0",
        "seed": seed,
        "holdout": holdout,
    }
    return publish(folder, files, facts)
