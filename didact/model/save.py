"""Saves a model as the standard folder, and proves it by reading the folder back: what is saved is what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch
from torch import Tensor

from didact.errors import Problem
from didact.model import sentence
from didact.model.encoder import UNBOUNDED, auto_class, encodes, kind_of, positions
from didact.model.extend import ExtendedEmbedding, ExtendedHead
from didact.model.folder import write_folder
from didact.model.heads import write as write_heads
from didact.model.load import CONFIG, load, quiet, scrub
from didact.model.lora import LoraLinear, adapted, save_adapter
from didact.model.shards import read_json
from didact.model.uncompiled import uncompiled
from didact.text import tokenizer as tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

GENERATION = "generation_config.json"
# Largest root-mean-square difference between saved and in-memory logits, over the root mean square of the logits.
# Equal weights through the same kernels give equal logits, whatever their type; a merged update is rounded to it.
TOLERANCE = 1e-5
MERGED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
PROBE = (2, 16)  # rows and tokens compared


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    merge: bool = True,
    stops: Sequence[int] = (),
    template: str | None = None,
    heads: Mapping[str, Tensor] | None = None,
    extra_files: Mapping[str, str | bytes] | None = None,
) -> None:
    """Writes the folder transformers, vLLM and llama.cpp's converter read; an older one is replaced when all is well.

    Configuration, safetensors, generation settings (``stops`` as end-of-sequence ids), tokenizer with its template
    (or the given one, where it has none), the ``heads`` of objectives, and ``extra_files`` by name. A LoRA is merged
    into its layers, or, without ``merge``, saved alone in PEFT's format. The model itself is left as it is.

    Raises Problem, and leaves no folder, when the folder read back does not give the same logits.
    """
    with write_folder(folder) as fresh:
        lone = not merge and bool(adapted(model))
        if lone:
            save_adapter(model, fresh, _base_name(model))
        else:
            write_model(model, tokenizer, fresh, stops)
        longest = positions(model.config)
        longest = tokenizer.model_max_length if longest == UNBOUNDED else longest
        tokenizers.save(tokenizer, fresh, longest, template)
        write_heads(heads or {}, fresh)
        extra: dict[str, str | bytes] = dict(extra_files or {})
        if not lone and (embedding := _served(model).get("embedding")):
            extra |= sentence.files(model.config, tokenizer, embedding)
        for name, content in extra.items():
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_bytes(content.encode() if isinstance(content, str) else content)
        again = load(fresh, model.dtype, "eager") if lone else _reload(model, fresh)
        compare(model, again, folder)


def standard_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights under the architecture's own names: updates merged, new rows at the end of their tables."""
    state = model.state_dict()
    joined: dict[tuple[int, int], Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLinear | ExtendedEmbedding | ExtendedHead):
            continue
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        bias: Any
        if isinstance(module, LoraLinear):
            state[f"{name}.weight"], bias = module.merged(), module.base.bias
        else:
            parts = (id(module.table.get_parameter("weight")), id(module.rows.get_parameter("weight")))
            # Tied tables stay one tensor, by which transformers knows to write it once.
            state[f"{name}.weight"] = joined.setdefault(parts, module.weight.detach())
            bias = module.bias if isinstance(module, ExtendedHead) else None
        if bias is not None:
            state[f"{name}.bias"] = bias.detach()
    return state


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, stops: Sequence[int] = ()
) -> None:
    """Configuration, safetensors and generation settings, unproven and without a tokenizer; see ``save_model``."""
    with quiet(), _plain_generation(model) if model.can_generate() else nullcontext():
        model.save_pretrained(folder, state_dict=standard_state(model))
    _write_settings(model, tokenizer, folder, stops)


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Holds back the model's generation settings, which transformers may refuse to write; we write them below."""
    from transformers import GenerationConfig

    held = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = held


def _write_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, stops: Sequence[int]
) -> None:
    """config.json and generation_config.json without traces of this machine or of how the model was run."""
    config = scrub(read_json(folder / CONFIG))
    for name in ("_name_or_path", "quantization_config"):
        config.pop(name, None)
    if "embedding" in _served(model) and not encodes(model.config):
        config.setdefault("is_causal", True)  # a field that sentence-transformers is told to read otherwise
    _dump(folder / CONFIG, config)
    held = model.generation_config if model.can_generate() else None
    if held is None:
        return
    ids = list(stops) or held.eos_token_id
    generation = scrub(held.to_diff_dict()) | {
        "eos_token_id": ids[0] if isinstance(ids, list) and len(ids) == 1 else ids,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    generation.pop("_from_model_config", None)  # it would let transformers overwrite the stop ids
    _dump(folder / GENERATION, {name: value for name, value in generation.items() if value is not None})


def _served(model: PreTrainedModel) -> dict[str, Any]:
    return getattr(model.config, "didact", None) or {}


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")


def _base_name(model: PreTrainedModel) -> str:
    """How the adapter names its base: a folder by its full path, a hub id as it is."""
    name = model.name_or_path
    if not name:
        raise Problem("this model came from no folder, so an adapter alone is of no use", remedy="save it merged")
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _reload(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Opens the folder as any user of transformers would, and holds every weight against what was to be written."""
    with quiet():
        again = auto_class(kind_of(model)).from_pretrained(folder, attn_implementation="eager")
    found = again.state_dict()
    for name, tensor in standard_state(model).items():
        if name not in found or not torch.equal(found[name], tensor.to(found[name].device)):
            raise Problem(f"weight {name} was not saved as it is", where=str(folder), remedy="report this as a bug")
    constants = dict(again.named_buffers())
    for name, tensor in model.named_buffers():
        if name in constants and constants[name].dtype != tensor.dtype:
            what = f"{name} is {tensor.dtype} in memory and {constants[name].dtype} in the saved model"
            raise Problem(what, where=str(folder), remedy="change a model's type with didact.model.load.cast")
    return again


@torch.no_grad()
def compare(model: PreTrainedModel, again: PreTrainedModel, folder: Path) -> None:
    """The law of saving: the same logits on a few tokens, in the same attention on the same device."""
    table: Any = again.get_input_embeddings()
    count = PROBE[0] * PROBE[1]
    ids = (torch.arange(count, device=model.device).view(PROBE) * 7919 + 13) % table.weight.shape[0]  # [2, 16]
    device = model.device
    with _plainly(model):
        ours = _output(model, ids)
    theirs = _output(again.to(device).eval(), ids)  # type: ignore
    if ours.shape != theirs.shape:
        raise Problem(f"saved logits are {list(theirs.shape)}, not {list(ours.shape)}", where=str(folder))
    error = ((ours - theirs).square().mean() / ours.square().mean().clamp(min=1e-30)).sqrt().item()
    allowed = MERGED[model.dtype] if adapted(model) else TOLERANCE
    if not error <= allowed:
        what = f"the saved model is not the trained one: logits differ by {error:.2g}, {allowed:.0e} is allowed"
        raise Problem(what, where=str(folder), remedy="nothing was saved; report this as a bug")


def _output(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits, or the hidden states of a model without a head, fp32."""
    found = model(input_ids=ids, use_cache=False)
    return (found.last_hidden_state if kind_of(model) == "base" else found.logits).float()


@contextmanager
def _plainly(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode with plain attention, nothing compiled, and as it was afterwards.

    A compiled norm or MLP rounds once where the plain one rounds after every operation.
    """
    training, attention = model.training, model.config._attn_implementation or "sdpa"
    model.eval()
    model.set_attn_implementation("eager")
    try:
        with uncompiled():
            yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
