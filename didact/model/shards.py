"""The safetensors files of a checkpoint folder, their headers checked before anything is read from them.

The layout is https://github.com/huggingface/safetensors#format: eight bytes of header length (little-endian),
that many bytes of JSON ``{name: {dtype, shape, data_offsets}}``, then the tensors back to back.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import orjson

from didact.errors import DataProblem, ResourceProblem

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
LARGEST_JSON = 64_000_000  # bytes; the largest index in the field is under 10 MB
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "I8": 8}
BITS |= {"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F32": 32, "I32": 32, "U32": 32}
BITS |= {"F64": 64, "I64": 64, "U64": 64, "C64": 64}
DAMAGED = "download or copy it again"

Shapes = dict[str, tuple[int, ...]]


def read_json(path: Path, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """The JSON object in a file of at most ``limit`` bytes; NaN and infinities are not JSON."""
    try:
        if path.stat().st_size > limit:
            raise DataProblem(f"larger than {limit:,} bytes, which no such file is", where=str(path), remedy=DAMAGED)
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ResourceProblem(f"cannot be read ({error.strerror})", where=str(path)) from error
    except orjson.JSONDecodeError as error:
        raise DataProblem(f"not JSON ({error})", where=str(path), remedy=DAMAGED) from error
    if not isinstance(value, dict):
        raise DataProblem(f"holds a JSON {type(value).__name__}, not an object", where=str(path), remedy=DAMAGED)
    return value


def header(path: Path) -> Shapes:
    """Names and shapes of the tensors in one file, after checking every claim of its header against its size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                what = f"claims a header of {length:,} bytes but has {size:,} bytes in all"
                raise DataProblem(what, where=str(path), remedy=DAMAGED)
            text = file.read(length)
    except OSError as error:
        raise ResourceProblem(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        entries = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataProblem(f"its header is not JSON ({error})", where=str(path), remedy=DAMAGED) from error
    if not isinstance(entries, dict):
        raise DataProblem("its header is not a JSON object", where=str(path), remedy=DAMAGED)
    entries.pop("__metadata__", None)
    spans = [_entry(path, name, entry) for name, entry in entries.items()]
    _check_cover(path, spans, size - 8 - length)
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _entry(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """Where a tensor lies, once its type, shape and length agree."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise DataProblem(f"tensor {name} has a damaged header entry", where=str(path), remedy=DAMAGED)
    if dtype not in BITS:
        raise DataProblem(f"tensor {name} has the unknown type {dtype}", where=str(path), remedy=DAMAGED)
    if not all(type(n) is int and n >= 0 for n in shape) or (end - start) * 8 != math.prod(shape) * BITS[dtype]:
        what = f"tensor {name} of shape {_short(shape)} {dtype} does not fill its {end - start:,} bytes"
        raise DataProblem(what, where=str(path), remedy=DAMAGED)
    return start, end, name


def _check_cover(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """The tensors must follow each other without gap or overlap and end with the file."""
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            raise DataProblem(f"tensor {name} starts at {start:,}, not {at:,}", where=str(path), remedy=DAMAGED)
        at = end
    if at != size:
        what = f"is truncated: its tensors need {at:,} bytes and {size:,} are there"
        raise DataProblem(what if size < at else f"has {size - at:,} stray bytes", where=str(path), remedy=DAMAGED)


def shards(folder: Path) -> dict[Path, Shapes]:
    """The weight files of a folder and what each holds. Pickle files are never an answer."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: header(folder / WEIGHTS)}
    if (folder / INDEX).is_file():
        return _indexed(folder)
    pickles = sorted(name for name in os.listdir(folder) if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickles:
        raise DataProblem(
            f"only pickled weights here ({pickles[0]}), which can run code when opened",
            where=str(folder),
            remedy="convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder) writes safetensors",
        )
    raise DataProblem(f"no {WEIGHTS} in this folder", where=str(folder), remedy="name a checkpoint folder")


def _indexed(folder: Path) -> dict[Path, Shapes]:
    """The shards an index names, each a plain file name in the same folder and holding what it should."""
    index = folder / INDEX
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise DataProblem("has no weight_map of names to files", where=str(index), remedy=DAMAGED)
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise DataProblem(f"names {name!r}, not a safetensors file in this folder", where=str(index))
        if not (folder / name).is_file():
            raise DataProblem(f"names {name}, which is not there", where=str(index), remedy=DAMAGED)
    found = {folder / name: header(folder / name) for name in names}
    for name, place in places.items():
        if name not in found[folder / place]:
            raise DataProblem(f"says {place} holds {name}, which it does not", where=str(index), remedy=DAMAGED)
    return found


def _short(shape: list[Any]) -> str:
    return str(shape) if len(shape) <= 6 else f"of {len(shape)} axes"
