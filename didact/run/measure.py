"""``didact eval``: bits per byte of a model on any data, and of another beside it."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from didact.data.fetch import cache_dir
from didact.data.settings import Data
from didact.engine.mesh import Mesh, pick_device
from didact.recipe.judging import Evaluate
from didact.run.evaluate import evaluate_stage
from didact.run.folder import StageFolder
from didact.run.ground import Ground
from didact.run.named import locate


def measure(
    name: str, data: str, against: str | None, limit: int | None, context: int, device: str, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Prints one JSON object a model to stdout: ``model``, ``data``, ``bits_per_byte``, ``tokens``, ``bytes``.

    Each model reads the data through its own tokenizer, so that models of different ones compare by bytes.
    """
    stage = Evaluate(
        name="eval", data={"data": Data.model_validate(data)}, against="none", limit=limit, context=context
    )
    mesh = Mesh(pick_device(device))
    results = []
    for each in [name, against] if against else [name]:
        where = locate(each, say)
        say(f"{each}:")
        ground = Ground(where, None, None, None, {}, cache_dir(), mesh, say)
        with tempfile.TemporaryDirectory() as folder:
            found = evaluate_stage(stage, ground, StageFolder(Path(folder))).facts["evaluations"]["data"]
        results.append(
            {
                "model": each,
                "data": data,
                "bits_per_byte": round(found["after"], 6),
                "tokens": found["tokens"],
                "bytes": found["bytes"],
            }
        )
        print(json.dumps(results[-1]), flush=True)
    if against:
        ours, theirs = (float(result["bits_per_byte"]) for result in results)
        part = abs(ours / theirs - 1)
        say(f"{name} needs {part:.1%} {'fewer' if ours < theirs else 'more'} bits than {against}")
    return results
