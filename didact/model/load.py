"""Loads a language model: a checkpoint folder, a hub id, a GGUF file or a PEFT adapter. Data only, never code.

Weights come from safetensors whose headers agree with their files; nothing pickled is opened, ``auto_map`` is
dropped before transformers sees it, and tensors are handed over by name, so no other file in the folder is
followed. A weight that is missing, left over, misshapen or not finite stops the load.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from didact.errors import DataProblem, ResourceProblem
from didact.model import sentence
from didact.model.encoder import Auto, auto_class, encodes, kind_named, kind_of
from didact.model.shards import Shapes, read_json, shards

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CONFIG, ADAPTER = "config.json", "adapter_config.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
BESIDE = re.compile(r"(^|\.)(pooler|seq_relationship|sop_classifier)\.")  # next-sentence and sentence-order prediction
# Fields of a configuration that make transformers run, fetch or swap something besides the model they describe.
FOREIGN = {"auto_map", "transformers_weights", "fusion_config", "distributed_config", "custom_pipelines"}
FOREIGN_START = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
# What building a model out of a configuration with impossible values raises, from division by zero heads to an
# activation that does not exist.
IMPOSSIBLE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
)


def load(where: str | Path, dtype: torch.dtype, attention: str = "reach", auto: Auto | None = None) -> PreTrainedModel:
    """The model ``where`` names, on the CPU, in evaluation mode and in ``dtype``.

    ``attention`` is the name of the attention it computes with; "reach" is Didact's own. ``auto`` is the kind of model,
    by default what the checkpoint says: causal, masked (an encoder with its head), or base, without a head.
    Raises DataProblem (one line naming the file) for anything wrong with the checkpoint.
    """
    folder = resolve(where)
    if not (folder / ADAPTER).is_file():
        return _load_folder(folder, dtype, attention, auto)
    from didact.model.lora import load_adapter

    model = _load_folder(_base(folder), dtype, attention, auto)
    load_adapter(model, folder)
    return model


def resolve(where: str | Path) -> Path:
    """The local checkpoint (or adapter) folder behind a folder, a hub id, a .gguf file or a folder with just one.

    A GGUF file is converted once, into a folder beside it; a hub id is downloaded into the hub's cache.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return _convert(path)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1 and not (path / CONFIG).exists() and not (path / ADAPTER).exists():
            return _convert(files[0])
        return path
    if HUB_ID.fullmatch(str(where)):
        return _download(str(where))
    raise DataProblem("no such checkpoint", where=str(where), remedy="name a folder, a .gguf file or a hub id")


def _convert(path: Path) -> Path:
    if path.suffix != ".gguf":
        raise DataProblem("not a checkpoint folder", where=str(path), remedy="name its folder, or a .gguf file")
    from didact.model.gguf import converted

    return converted(path)


def _download(name: str) -> Path:
    """The files of a hub repository that loading reads, and nothing that could be code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*"]))
        if (folder / sentence.MODULES).is_file():
            snapshot_download(name, allow_patterns=[sentence.POOLING])
        return folder
    except (RepositoryNotFoundError, HFValidationError) as error:
        remedy = "check the spelling; a private or gated model needs hf auth login"
        raise DataProblem("neither a folder here nor a model on the hub", where=name, remedy=remedy) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        what = "not a folder here, and the hub cannot be reached"
        raise ResourceProblem(what, where=name, remedy="check the path or the connection") from error


def _base(adapter: Path) -> Path:
    """The folder of the model an adapter belongs to: relative paths count from the adapter, then from here."""
    name = read_json(adapter / ADAPTER).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise DataProblem("names no base_model_name_or_path", where=str(adapter / ADAPTER))
    folder = resolve(adapter / name if (adapter / name).is_dir() else name)
    if (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file():
        raise DataProblem("its base model is an adapter too", where=str(adapter), remedy="merge the first one")
    return folder


def check_folder(folder: Path) -> None:
    """Raises what ``load`` would raise for a folder's names, headers and configuration, without reading weights."""
    if not (folder / ADAPTER).is_file():
        raw = _settings(folder)
        _config(folder, raw, sum(len(shapes) for shapes in shards(folder).values()))


def _load_folder(folder: Path, dtype: torch.dtype, attention: str, auto: Auto | None) -> PreTrainedModel:
    raw = _settings(folder)
    files = shards(folder)
    config = _config(folder, raw, sum(len(shapes) for shapes in files.values()))
    with quiet():
        auto = auto or kind_named(config)
        kind = _class(folder, config, auto)
        _check_size(folder, kind, config, files)
        return _fill(folder, kind, config, files, dtype, attention, auto)


def _settings(folder: Path) -> dict[str, Any]:
    """``config.json`` without what it may not decide."""
    if not (folder / CONFIG).is_file():
        remedy = "name a checkpoint folder (config.json, model.safetensors, tokenizer.json)"
        raise DataProblem(f"no {CONFIG} in this folder", where=str(folder), remedy=remedy)
    raw = scrub(read_json(folder / CONFIG))
    if raw.pop("quantization_config", None):
        what = "is quantised, and quantised weights cannot be trained"
        raise DataProblem(what, where=str(folder / CONFIG), remedy="load the unquantised checkpoint, or its GGUF file")
    return raw


def scrub(raw: dict[str, Any]) -> dict[str, Any]:
    """A configuration, and those nested in it, without the fields that reach beyond describing the model."""
    kept = {k: v for k, v in raw.items() if k not in FOREIGN and not k.startswith(FOREIGN_START)}
    return {k: scrub(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _config(folder: Path, raw: dict[str, Any], tensors: int) -> PreTrainedConfig:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    where = str(folder / CONFIG)
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        what = f"names no architecture transformers knows (model_type: {str(name)[:60]!r})"
        raise DataProblem(what, where=where, remedy="models that bring their own code are not loaded")
    for key, value in raw.items():
        # Counted before any object is built: a configuration makes a list entry a layer and a label.
        if ("layer" in key or "labels" in key) and isinstance(value, int) and value > max(tensors, 100):
            raise DataProblem(f"{key}: {value} in a checkpoint of {tensors} tensors", where=where)
    try:
        with quiet():
            return CONFIG_MAPPING[name].from_dict(raw)
    except (StrictDataclassError, *IMPOSSIBLE) as error:
        raise DataProblem(f"not a {name} configuration ({line(error)})", where=where) from error


def _class(folder: Path, config: PreTrainedConfig, auto: Auto) -> type[PreTrainedModel]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

    mapping = {"causal": MODEL_FOR_CAUSAL_LM_MAPPING, "masked": MODEL_FOR_MASKED_LM_MAPPING, "base": MODEL_MAPPING}[
        auto
    ]
    if type(config) not in mapping:
        raise DataProblem(f"{config.model_type} has no {auto} model in transformers", where=str(folder / CONFIG))
    found: Any = mapping[type(config)]
    return found


def _check_size(folder: Path, kind: type[PreTrainedModel], config: PreTrainedConfig, files: dict[Path, Shapes]) -> None:
    """Builds the model without memory, to refuse one far larger than its files before it takes any."""
    from huggingface_hub.errors import StrictDataclassError

    where = str(folder / CONFIG)
    try:
        with torch.device("meta"):
            empty = kind(config)
    except (StrictDataclassError, *IMPOSSIBLE) as error:
        what = f"describes an impossible {config.model_type} model ({line(error)})"
        raise DataProblem(what, where=where) from error
    stored = sum(torch.Size(shape).numel() for shapes in files.values() for shape in shapes.values())
    wanted = sum(p.numel() for p in empty.parameters())
    buffers = sum(b.numel() for b in empty.buffers())
    if wanted > 2 * stored or buffers > stored + 2**28:
        what = f"describes {wanted + buffers:,} values; the weight files hold {stored:,}"
        raise DataProblem(what, where=where, remedy="the two belong to different checkpoints")


def _fill(
    folder: Path,
    kind: type[PreTrainedModel],
    config: PreTrainedConfig,
    files: dict[Path, Shapes],
    dtype: torch.dtype,
    attention: str,
    auto: Auto,
) -> PreTrainedModel:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if attention == "reach":
        from didact.model.attention import register

        register()
    try:
        tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise DataProblem(f"damaged weights ({line(error)})", where=str(folder)) from error
    try:
        # With tensors and no folder, transformers follows no other file: no adapter, no pickle, no code.
        loader: Any = kind.from_pretrained
        model, info = loader(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
        )
    except RuntimeError as error:
        raise DataProblem(f"the weights do not fit the model ({line(error)})", where=str(folder)) from error
    _check_weights(folder, info, auto)
    _own(folder, model)
    _set_generation(folder, model)
    _set_embedding(folder, model)
    train_every_row(model)
    model.name_or_path = str(folder)
    return model


def _check_weights(folder: Path, info: dict[str, Any], auto: Auto) -> None:
    """Every weight the model has and every weight the files have is the same weight.

    Heads may be left over: any by ``base``, by ``masked`` those of what BERT learned beside masked tokens.
    """
    remedy = f"{CONFIG} and the weight files belong to different checkpoints"
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        what = f"weight {name} has shape {tuple(stored)}, the configuration wants {tuple(wanted)}"
        raise DataProblem(what, where=str(folder), remedy=remedy)
    if info["missing_keys"]:
        raise DataProblem(f"weights missing: {some(info['missing_keys'])}", where=str(folder), remedy=remedy)
    strange = [name for name in info["unexpected_keys"] if auto == "causal" or not BESIDE.search(name)]
    if strange and auto != "base":
        what = f"weights the model has no place for: {some(strange)}"
        raise DataProblem(what, where=str(folder), remedy=remedy)


def some(names: Any) -> str:
    """The first few of many names, and how many more."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _own(folder: Path, model: PreTrainedModel) -> None:
    """Copies the weights out of the mapped file, so whoever rewrites it later changes nothing here."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise DataProblem(f"weight {name} holds NaN or infinity", where=str(folder))
        weight.data = weight.data.clone()


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model in another type, as loading it in that type would give it.

    ``Module.to`` would round its constants (rotary frequencies) too, which makes it another function.
    """
    if model.dtype == dtype:
        return model
    attention = model.config._attn_implementation
    with quiet():
        other = auto_class(kind_of(model)).from_config(model.config, dtype=dtype, attn_implementation=attention)
    other.load_state_dict(model.state_dict())
    if model.can_generate():
        other.generation_config = model.generation_config
    train_every_row(other)
    return other.train(model.training)


def train_every_row(model: PreTrainedModel) -> None:
    """Undoes ``padding_idx``, by which torch drops an embedding row's gradient: often the row of a stop token.

    Padding is invisible by ``doc`` here; many checkpoints name the end-of-sequence token as padding.
    """
    table = model.get_input_embeddings()
    if isinstance(table, torch.nn.Embedding):
        table.padding_idx = None


def _set_generation(folder: Path, model: PreTrainedModel) -> None:
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.is_file() or not model.can_generate():
        return
    try:
        model.generation_config = GenerationConfig.from_dict(scrub(read_json(path)))
    except IMPOSSIBLE as error:
        raise DataProblem(f"not a generation configuration ({line(error)})", where=str(path)) from error


def _set_embedding(folder: Path, model: PreTrainedModel) -> None:
    """How a model of sentence-transformers makes its vectors, where it is none of ours, which say so themselves."""
    config: Any = model.config
    served = getattr(config, "didact", None) or {}
    embedding = {} if served else sentence.read(folder)
    if embedding:
        config.didact = {"embedding": {"bidirectional": encodes(config)} | embedding}


def line(error: BaseException) -> str:
    """What an exception says, in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"{type(error).__name__} {text}" if isinstance(error, KeyError) else text
    return text if len(text) <= 200 else text[:197] + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its warnings and progress bars: what matters in them is raised here as a Problem."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity(logging.CRITICAL)
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
