"""The domain ``demo-pairs``: 300 prompts of the everyday kind, each with an answer and a worse one."""

import json
from pathlib import Path
from typing import Any

from didact.data.domain.writing import Line, held_out, publish
from didact.data.fields import SHAREGPT_ROLES


def demo_pairs(folder: Path, holdout: float, seed: int, source: Path) -> dict[str, Any]:
    """Writes ``preferences`` of ``prompt``, ``chosen`` and ``rejected``, all messages; held out by prompt."""
    files: dict[str, list[Line]] = {"preferences.jsonl": [], "preferences.heldout.jsonl": []}
    for record in json.loads(next(source.rglob("dpo_en_demo.json")).read_text(encoding="utf-8")):
        prompt = [_message(turn) for turn in record["conversations"]]
        side = ".heldout" if held_out(json.dumps(prompt), seed, holdout) else ""
        files[f"preferences{side}.jsonl"].append(
            {"prompt": prompt, "chosen": [_message(record["chosen"])], "rejected": [_message(record["rejected"])]}
        )
    facts = {
        "domain": "demo-pairs",
        "source": "dpo_en_demo.json of PyPI llamafactory 0.9.5, in which models seem to have judged",
        "licence": "Apache-2.0",
        "seed": seed,
        "holdout": holdout,
    }
    return publish(folder, {name: lines for name, lines in files.items() if lines}, facts)


def _message(turn: dict[str, str]) -> dict[str, str]:
    return {"role": SHAREGPT_ROLES[turn["from"]], "content": turn["value"]}
