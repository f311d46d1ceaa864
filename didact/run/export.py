"""``didact export``: a model as the standard folder, proved by reading it back."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from didact.errors import UsageProblem
from didact.model.save import save_model
from didact.model.shards import read_json
from didact.run.named import locate, open_model

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def export(name: str, folder: Path, dtype: Literal["as-saved", "bf16", "fp32"], say: Callable[[str], None]) -> None:
    """Writes the folder transformers, vLLM and llama.cpp's converter read; adapters are merged.

    Raises UsageProblem for a folder that holds something, Problem when what was written does not compute as the model.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageProblem("there is something here already", where=str(folder), remedy="name a new folder")
    wanted = _saved(locate(name, say)) if dtype == "as-saved" else DTYPES[dtype]
    named = open_model(name, "cpu", say, wanted)
    template = named.renderer.template if isinstance(named.renderer.template, str) else None
    net, renderer, heads = named.model.net, named.renderer, named.model.heads.state_dict()
    save_model(net, renderer.tokenizer, folder, stops=renderer.stops, template=template, heads=heads)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"read back and compared: the same logits; {size / 1e6:,.1f} MB in {str(wanted).removeprefix('torch.')}")
    print(folder)


def _saved(where: Path) -> torch.dtype:
    """The type the weights are kept in; fp32 where the configuration does not say (an adapter, an old folder)."""
    config = where / "config.json"
    given = read_json(config) if config.is_file() else {}
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return known.get(str(given.get("dtype", given.get("torch_dtype"))), torch.float32)
