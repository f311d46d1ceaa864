"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): h = W x + (alpha / r) B A x, equation 3 and section 4.1.

Adapters are read and written in PEFT's file format, so its users and serving engines take them as they are.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from didact.errors import DataProblem, UsageProblem
from didact.model.settings import Lora
from didact.model.shards import header, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Fields of PEFT's configuration that do not change what the adapter computes, or are read here.
READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "peft_type", "bias", "init_lora_weights"}
INERT = {"base_model_name_or_path", "task_type", "inference_mode", "revision", "peft_version", "auto_mapping"}
INERT |= {"fan_in_fan_out", "megatron_core", "qalora_group_size", "layers_to_transform", "layers_pattern"}
INERT |= {"exclude_modules", "ensure_weight_tying", "runtime_config"}


class LoraLinear(nn.Module):
    """A frozen linear layer (or GPT-2's Conv1D, its transpose) and a trainable update of rank r, zero at first.

    A is [r, in], Kaiming-uniform as in the authors' code; B is [out, r], zero. Both have the layer's dtype.
    """

    def __init__(self, base: nn.Linear | Conv1D, rank: int, scale: float, dropout: float):
        super().__init__()
        rows, columns = base.weight.shape if isinstance(base, nn.Linear) else base.weight.shape[::-1]
        like: dict[str, Any] = {"bias": False, "device": base.weight.device, "dtype": base.weight.dtype}
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Linear(columns, rank, **like)
        self.lora_B = nn.Linear(rank, rows, **like)
        self.scale, self.dropout = scale, dropout
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return self.base(x) + self.scale * self.lora_B(self.lora_A(F.dropout(x, self.dropout, self.training)))

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The base layer's weight with the update added in fp32, in the layer's own layout and dtype."""
        update = self.scale * (self.lora_B.weight.float() @ self.lora_A.weight.float())  # [out, in]
        update = update if isinstance(self.base, nn.Linear) else update.T
        return (self.base.weight.float() + update).to(self.base.weight.dtype)


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def add(model: PreTrainedModel, lora: Lora, seed: int = 0) -> list[str]:
    """Adapts the target layers in place, freezes the rest of the model, and gives the layers' names.

    Raises UsageProblem for a target the model does not have.
    """
    names = _targets(model, lora.targets)
    model.requires_grad_(False)
    scale = (lora.alpha or 2.0 * lora.rank) / lora.rank
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = adapt(model, name, lora.rank, scale, lora.dropout)
        bound = 1 / math.sqrt(layer.lora_A.in_features)  # kaiming_uniform with a = sqrt(5), as nn.Linear
        drawn = torch.empty(layer.lora_A.weight.shape).uniform_(-bound, bound, generator=generator)
        layer.lora_A.weight.data.copy_(drawn)
    return names


def sharing(model: PreTrainedModel) -> PreTrainedModel:
    """Another network with the very weights of this one, in memory once: adapters on it leave this one as it is."""
    weights: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, weights)


def merge(model: PreTrainedModel) -> None:
    """Puts every update into its layer's weight, in place; the model is an ordinary one again."""
    for name, layer in adapted(model).items():
        layer.base.weight.data = layer.merged()
        model.set_submodule(name, layer.base)


def adapt(model: PreTrainedModel, name: str, rank: int, scale: float, dropout: float = 0.0) -> LoraLinear:
    """Puts an update beside one layer, in place; gives the pair."""
    layer = LoraLinear(_linear(model.get_submodule(name)), rank, scale, dropout)
    model.set_submodule(name, layer.train(model.training))
    return layer


def _linear(module: nn.Module) -> nn.Linear | Conv1D:
    if not isinstance(module, nn.Linear | Conv1D):
        raise UsageProblem(f"{type(module).__name__} is no linear layer", remedy="LoRA adapts linear layers only")
    return module


def _candidates(model: PreTrainedModel) -> Iterator[str]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            raise UsageProblem("the model carries a LoRA already", remedy="merge it first")
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield name


def _targets(model: PreTrainedModel, wanted: tuple[str, ...]) -> list[str]:
    """Full names of the layers to adapt: all, or those that end in a wanted name."""
    names = list(_candidates(model))
    if not names:
        raise UsageProblem(f"{type(model).__name__} has no linear layers for a LoRA", where="tune.lora")
    for target in wanted:
        if not any(_ends(name, target) for name in names):
            short = sorted({name.rpartition(".")[2] for name in names})
            near = difflib.get_close_matches(target, [*short, *names], n=3, cutoff=0.5) or short[:8]
            what = f"no linear layer is called {target!r} (the output head cannot be one)"
            raise UsageProblem(what, where="tune.lora.targets", remedy=f"try {', '.join(near)}")
    return [name for name in names if not wanted or any(_ends(name, target) for target in wanted)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def save_adapter(model: PreTrainedModel, folder: Path, base_name: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as PEFT does, for the model named ``base_name``."""
    if not adapted(model):
        raise UsageProblem("the model carries no LoRA to save", where=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in adapter_files(model, base_name).items():
        (folder / name).write_bytes(content)


def adapter_files(
    model: PreTrainedModel, base_name: str, whole: Mapping[str, Tensor] | None = None
) -> dict[str, bytes]:
    """The two files by name. ``whole`` are weights of modules that take the place of the base's: a classifier's."""
    import orjson
    from safetensors.torch import save

    layers = adapted(model)
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if whole else "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": first.lora_A.out_features,
        "lora_alpha": first.scale * first.lora_A.out_features,
        "lora_dropout": first.dropout,
        "target_modules": _short_names(model, set(layers)),
        "modules_to_save": list(whole) if whole else None,
        "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for layer in layers.values()),
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
    }
    tensors = {f"{name}.weight": weight for name, weight in (whole or {}).items()}
    tensors |= {
        f"{name}.{part}.weight": matrix.weight
        for name, layer in layers.items()
        for part, matrix in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }
    tensors = {f"{PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    return {CONFIG: told, WEIGHTS: save(tensors, metadata={"format": "pt"})}


def _short_names(model: PreTrainedModel, names: set[str]) -> list[str]:
    """Last parts of the names, which serving engines expect, when they single out these very layers."""
    short = {name.rpartition(".")[2] for name in names}
    reached = {name for name, module in model.named_modules() if any(_ends(name, end) for end in short)}
    return sorted(short if reached == names else names)


def load_adapter(
    model: PreTrainedModel, folder: Path, prefix: str = PREFIX, whole: Collection[str] = ()
) -> dict[str, Tensor]:
    """Adapts a model in place with an adapter folder that PEFT or Didact wrote.

    ``prefix`` stands before the model's names; ``whole`` are the modules the adapter has whole, whose weights it gives.
    Raises DataProblem for adapters that are not a plain LoRA of this model.
    """
    from safetensors.torch import load_file

    config = _read_config(folder, whole)
    shapes = header(_weights(folder))
    names = sorted(name.removeprefix(prefix).removesuffix(".lora_A.weight") for name in shapes if ".lora_A." in name)
    expected = {f"{prefix}{name}.{part}.weight" for name in names for part in ("lora_A", "lora_B")}
    expected |= {f"{PREFIX}{name}.weight" for name in whole}
    if not names or expected != set(shapes):
        odd = sorted(expected ^ set(shapes))[:3]
        raise DataProblem(f"not just pairs of lora_A and lora_B: {', '.join(odd)}", where=str(folder / WEIGHTS))
    _check_fit(model, folder, config, {name.removeprefix(prefix): shape for name, shape in shapes.items()}, names)
    tensors = load_file(folder / WEIGHTS)
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    model.requires_grad_(False)
    for name in names:
        layer = adapt(model, name, rank, scale, config.get("lora_dropout", 0.0))
        layer.lora_A.weight.data.copy_(tensors[f"{prefix}{name}.lora_A.weight"])
        layer.lora_B.weight.data.copy_(tensors[f"{prefix}{name}.lora_B.weight"])
    return {name: tensors[f"{PREFIX}{name}.weight"] for name in whole}


def _weights(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        remedy = "save the adapter again with PEFT's safe_serialization; pickled adapters are not opened"
        raise DataProblem(f"no {WEIGHTS} in this folder", where=str(folder), remedy=remedy)
    return folder / WEIGHTS


def _read_config(folder: Path, whole: Collection[str]) -> dict[str, Any]:
    """An adapter's configuration, once it is known to mean what ``LoraLinear`` computes."""
    where = str(folder / CONFIG)
    config = read_json(folder / CONFIG)
    if config.get("modules_to_save") == list(whole):
        del config["modules_to_save"]
    beyond = [key for key, value in config.items() if value and key not in READ | INERT and not key.endswith("_config")]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or beyond:
        what = f"more than a plain LoRA ({', '.join(beyond) or 'its type or its bias'})"
        raise DataProblem(what, where=where, remedy="merge it into its base model with PEFT first")
    if config.get("init_lora_weights") not in (None, True, False, "gaussian", "orthogonal", "eva"):
        what = f"made with init_lora_weights: {config['init_lora_weights']}, which changes the base model too"
        raise DataProblem(what, where=where, remedy="convert it with PEFT's path_initial_model_for_weight_conversion")
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    if not (type(rank) is int and rank > 0 and type(alpha) in (int, float) and type(dropout) in (int, float)):
        raise DataProblem("needs numbers for r, lora_alpha and lora_dropout", where=where)
    return config


def _check_fit(model: nn.Module, folder: Path, config: dict[str, Any], shapes: Any, names: list[str]) -> None:
    modules = dict(model.named_modules())
    for name in names:
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear | Conv1D):
            remedy = "load it with the base model it was trained on"
            raise DataProblem(f"adapts {name}, no linear layer of this model", where=str(folder), remedy=remedy)
        rows, columns = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.shape[::-1]
        found = (shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"])
        if found != ((config["r"], columns), (rows, config["r"])):
            what = f"A, B of {name} are {found[0]}, {found[1]}; rank {config['r']} on {rows} x {columns} was expected"
            raise DataProblem(what, where=str(folder / WEIGHTS), remedy="it belongs to another base model")
