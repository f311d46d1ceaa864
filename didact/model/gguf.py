"""GGUF files (llama.cpp's format) to standard checkpoint folders, once.

The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count in the file is checked against
the file's size before the gguf library, which trusts them, sees it. Weights are kept in fp32: a quantised value
is a product and a sum of half-precision numbers, which bf16 rounds and fp32 holds exactly as dequantised.
"""

from __future__ import annotations

import io
import struct
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.errors import DataProblem, MissingExtra, ResourceProblem
from didact.model.folder import write_folder
from didact.model.shards import DAMAGED, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each scalar value type
STRING, ARRAY = 8, 9
MODEL, SPLIT, KINDS = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.token_type"
KEPT = {MODEL: STRING, SPLIT: STRING, KINDS: ARRAY}
CONTROL = 3  # the token type of marks such as <|im_start|>
MOST_AXES = 8  # ggml itself has 4
STAMP = "gguf.json"  # in the converted folder: which file it came from

# The word splitting that llama.cpp knows by name (tokenizer.ggml.pre) and transformers does not read: a regular
# expression for those that have one, None for GPT-2's own, and DIGITS for GPT-2's after single digits are cut out.
DIGITS = "digits"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITTING = {
    **dict.fromkeys(("default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe"), None),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"), CONTRACTION + WORDS % "{1,3}"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"), CONTRACTION + WORDS % ""),
}


@dataclass
class _Reader:
    """A cursor over a file that never reads past its end."""

    path: Path
    data: memoryview
    at: int = 0

    def fail(self, what: str) -> DataProblem:
        return DataProblem(what, where=str(self.path), remedy=DAMAGED)

    def take(self, count: int, what: str) -> memoryview:
        if count > len(self.data) - self.at:
            have = len(self.data) - self.at
            raise self.fail(f"{what} claims {count:,} bytes at byte {self.at:,}, {have:,} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str, what: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]

    def text(self, what: str) -> str:
        length = self.number("Q", what)
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8") from error

    def count(self, what: str, least: int) -> int:
        """A number of things of at least ``least`` bytes each."""
        number = self.number("Q", what)
        if number * least > len(self.data) - self.at:
            raise self.fail(f"claims {number:,} {what} in a file of {len(self.data):,} bytes")
        return number

    def skip_value(self, kind: int, key: str, depth: int = 0) -> None:
        if kind in SCALARS:
            self.take(SCALARS[kind], key)
        elif kind == STRING:
            self.take(self.number("Q", key), key)
        elif kind == ARRAY and depth < 4:
            inner = self.number("I", key)
            number = self.count(f"values of {key}", SCALARS.get(inner, 8))
            if inner in SCALARS:
                self.take(number * SCALARS[inner], key)
            else:
                for _ in range(number):
                    self.skip_value(inner, key, depth + 1)
        else:
            raise self.fail(f"{key} has the unknown value type {kind}")


def check(path: Path) -> dict[str, Any]:
    """What the file says of its tokenizer, as far as transformers does not read it (``KEPT``).

    Raises DataProblem unless every count, length and offset of the file fits in its size.
    """
    import mmap

    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24 or file.read(4) != MAGIC:
                raise DataProblem("not a GGUF file", where=str(path), remedy="name a .gguf file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
                return _check(_Reader(path, data, at=4))
    except OSError as error:
        raise ResourceProblem(f"cannot be read ({error.strerror})", where=str(path)) from error


def _check(reader: _Reader) -> dict[str, Any]:
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        raise reader.fail(f"GGUF version {version}; versions 2 and 3 in little-endian order can be read")
    tensors = reader.count("tensors", 8 + 4 + 4 + 8)
    keys: set[str] = set()
    kept: dict[str, Any] = {}
    for _ in range(reader.count("keys", 8 + 4 + 1)):
        key = reader.text("a key")
        if key in keys:
            raise reader.fail(f"key {key[:60]} stands twice")
        keys.add(key)
        kind, start = reader.number("I", key[:60]), reader.at
        reader.skip_value(kind, key[:60])
        if key in KEPT and kind == KEPT[key]:
            kept[key] = bytes(reader.data[start : reader.at])
    spans = [_tensor(reader) for _ in range(tensors)]
    for name, start, size in spans:
        if reader.at + start + size > len(reader.data):
            what = f"tensor {name} ends at byte {reader.at + start + size:,} of a file of {len(reader.data):,}"
            raise reader.fail(what)
    return {key: _decoded(reader, key, raw) for key, raw in kept.items()}


def _decoded(reader: _Reader, key: str, raw: bytes) -> str | list[int]:
    if KEPT[key] == STRING:
        return raw[8:].decode(errors="replace")
    if struct.unpack("<I", raw[:4])[0] != 5:
        raise reader.fail(f"{key} is not a list of int32")
    return list(struct.unpack(f"<{(len(raw) - 12) // 4}i", raw[12:]))


def _tensor(reader: _Reader) -> tuple[str, int, int]:
    """Name, offset in the data and least size in bytes of one tensor."""
    name = reader.text("a tensor name")[:60]
    axes = reader.number("I", name)
    if axes > MOST_AXES:
        raise reader.fail(f"tensor {name} claims {axes:,} axes")
    elements = 1
    for _ in range(axes):
        elements *= reader.number("Q", name)
    kind, offset = reader.number("I", name), reader.number("Q", name)
    values, size = _block_sizes(reader).get(kind, (0, 0))
    if not values:
        raise reader.fail(f"tensor {name} has the unknown type {kind}")
    return name, offset, -(-elements // values) * size


def _block_sizes(reader: _Reader) -> dict[int, tuple[int, int]]:
    """(values, bytes) of a block of each tensor type."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as error:
        raise MissingExtra("gguf and accelerate", "gguf", f"reading {reader.path.name}") from error
    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def converted(path: Path) -> Path:
    """The standard folder made from a GGUF file: beside it, written once, made again when the file changes."""
    folder = path.with_suffix(".checkpoint")
    if (folder / STAMP).is_file() and read_json(folder / STAMP) == _stamp(path):
        return folder
    convert_gguf(path, folder)
    return folder


def _stamp(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"file": path.name, "size": stat.st_size, "modified": stat.st_mtime_ns}


def convert_gguf(path: Path, folder: Path) -> None:
    """Writes the checkpoint folder (fp32 safetensors, configuration, tokenizer) of a GGUF file, whole or not at all.

    Raises DataProblem for a damaged file or an architecture transformers cannot read from GGUF, MissingExtra.
    """
    from didact.model.load import IMPOSSIBLE, line, quiet

    kept = check(path)
    try:
        import accelerate  # noqa: F401  (transformers reads GGUF through it)
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingExtra("gguf and accelerate", "gguf", f"reading {path.name}") from error
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # a progress bar that no switch turns off
            model, tokenizer = _read(path, kept)
    except Exception as error:
        # The tokenizers library raises bare Exceptions.
        if not isinstance(error, IMPOSSIBLE) and type(error) is not Exception:
            raise
        what = f"transformers cannot read it ({line(error)})"
        raise DataProblem(what, where=str(path), remedy="use the checkpoint's safetensors folder") from error
    with write_folder(folder) as temporary:
        _write(temporary, model, tokenizer, _stamp(path))


def _read(path: Path, kept: dict[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer, with the quantisation forgotten and the tokenizer's word splitting and marks restored."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(path.parent), path.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.hf_quantizer = None
    model.is_quantized = False
    if "quantization_config" in vars(model.config):
        del model.config.quantization_config
    vars(model.config).pop("_model_name_or_path", None)  # the title inside the file, no path
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    _mend_tokenizer(path, tokenizer, kept)
    return model, tokenizer


def _mend_tokenizer(path: Path, tokenizer: Any, kept: dict[str, Any]) -> None:
    """transformers drops the name of the word splitting and most control tokens; both change what text becomes."""
    marks = [i for i, kind in enumerate(kept.get(KINDS, ())) if kind == CONTROL]
    named = {"additional_special_tokens": tokenizer.convert_ids_to_tokens(marks)}
    tokenizer.add_special_tokens(named, replace_extra_special_tokens=False)
    if kept.get(MODEL) == "gpt2":
        _split_words(path, tokenizer.backend_tokenizer, kept.get(SPLIT, "default"))


def _split_words(path: Path, tokenizer: Tokenizer, name: str) -> None:
    from tokenizers import Regex, pre_tokenizers

    if name not in SPLITTING:
        what = f"splits words the {name!r} way, which is unknown here"
        raise DataProblem(what, where=str(path), remedy="use the checkpoint's safetensors folder")
    split = SPLITTING[name]
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in (None, DIGITS))
    if split is None:
        tokenizer.pre_tokenizer = whole
    elif split == DIGITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    else:
        cut = pre_tokenizers.Split(Regex(split), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, whole])


def _write(folder: Path, model: Any, tokenizer: Any, stamp: dict[str, Any]) -> None:
    import orjson

    from didact.model.load import quiet
    from didact.text.tokenizer import save

    with quiet():
        model.save_pretrained(folder)
    save(tokenizer, folder, model.config.max_position_embeddings)
    (folder / STAMP).write_bytes(orjson.dumps(stamp))
