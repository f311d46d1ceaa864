"""Builds a new model of any causal or masked architecture transformers has, sized to a number of parameters.

The rule, for everything the recipe's ``config`` does not fix:

- width: a multiple of 64; heads of 64; half as many key/value heads or the next smaller divisor, down to a quarter;
- gated layers of 8/3 of the width (Shazeer 2020, arXiv:2002.05202, section 3), to the next multiple of 64;
- depth: what comes nearest to the size at each width. Of these shapes, the one that loses least between missing the
  size and a width other than 32 times the depth: small models want depth (Liu et al. 2024, arXiv:2402.14905,
  section 2.2.1), laptops want width;
- one table for embedding and head under a billion parameters, two above; no dropout; the vocabulary is the tokenizer's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from didact.errors import UsageProblem
from didact.model.encoder import auto_class, encodes, first_position
from didact.model.load import IMPOSSIBLE, cast, line, quiet, train_every_row
from didact.model.settings import Scratch
from didact.settings import count

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

HEAD = 64
WIDEST = 256 * HEAD
ASPECT = 32  # width over depth
MISS = 10  # a size off by 10 % weighs as much as an aspect off by a factor of e
ROPE = ("rope_theta", "rope_scaling")  # names that transformers folds into rope_parameters
TIE_BELOW = 1_000_000_000


@dataclass(frozen=True)
class _Shape:
    width: int
    depth: int
    size: int

    def loss(self, wanted: int) -> float:
        return abs(math.log(self.width / self.depth / ASPECT)) + MISS * abs(self.size / wanted - 1)


def build(
    spec: Scratch, tokenizer: PreTrainedTokenizerFast, context: int, seed: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model in ``dtype`` on the CPU with the architecture's own initialisation, drawn in fp32 from ``seed``.

    Raises UsageProblem for an unknown architecture or field, values that do not fit together, and a size that
    cannot be reached.
    """
    from didact.model.attention import register

    register()
    architecture = _Architecture(spec, tokenizer, context)
    shape = _search(architecture, count(spec.size))
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        config = architecture.config(shape.width, shape.depth)
        model = architecture.auto.from_config(config, dtype=torch.float32, attn_implementation="reach").eval()
    train_every_row(model)
    return cast(model, dtype)


class _Architecture:
    """Configurations of one architecture, for any width and depth."""

    def __init__(self, spec: Scratch, tokenizer: PreTrainedTokenizerFast, context: int):
        self.kind = _config_class(spec.architecture)
        with quiet():
            plain = self.kind()
        self.auto = auto_class("masked" if encodes(plain) and not spec.config.get("is_decoder") else "causal")
        self.aliases = {v: k for k, v in plain.attribute_map.items()}  # their own name -> the common name
        self.fields: dict[str, Any] = {self.common(name): value for name, value in plain.to_dict().items()}
        self.given: dict[str, Any] = {self.common(name): value for name, value in spec.config.items()}
        for name in spec.config:
            if self.common(name) not in self.fields and not (name in ROPE and "rope_parameters" in self.fields):
                near = difflib.get_close_matches(name, [*self.fields, *self.aliases], n=2, cutoff=0.6)
                remedy = f"did you mean {' or '.join(near)}?" if near else "see the architecture's configuration class"
                raise UsageProblem(f"{spec.architecture} has no field {name!r}", where="base.config", remedy=remedy)
        self.fixed: dict[str, Any] = {
            "vocab_size": max(tokenizer.get_vocab().values()) + 1,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": context + first_position(self.kind.model_type, tokenizer.pad_token_id),
            "cls_token_id": tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id,
            "sep_token_id": tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id,
            "mask_token_id": tokenizer.mask_token_id,
            "tie_word_embeddings": count(spec.size) < TIE_BELOW,
        }
        # Dropout would make a step depend on how it is cut; a recipe that wants it says so.
        self.fixed |= {k: 0.0 for k, v in self.fields.items() if isinstance(v, float) and ("drop" in k)}

    def common(self, name: str) -> str:
        """A field's common name: ``hidden_size`` for GPT-2's ``n_embd``."""
        return self.aliases.get(name, name)

    def config(self, width: int, depth: int) -> PreTrainedConfig:
        """The configuration of this width and depth, with the recipe's own fields over everything."""
        heads = self.given.get("num_attention_heads", max(1, width // HEAD))
        ruled: dict[str, Any] = {
            **self.fixed,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "num_key_value_heads": _key_value_heads(heads),
            "head_dim": HEAD if width % HEAD == 0 else width // heads,
            "intermediate_size": math.ceil(width * 8 / 3 / HEAD) * HEAD,
        }
        ruled |= {"query_pre_attn_scalar": self.given.get("head_dim", ruled["head_dim"])}  # Gemma's scale
        chosen = {k: v for k, v in ruled.items() if k in self.fields} | self.given
        if chosen["vocab_size"] < self.fixed["vocab_size"]:
            what = f"vocab_size {chosen['vocab_size']} is less than the tokenizer's {self.fixed['vocab_size']}"
            raise UsageProblem(what, where="base.config", remedy="leave vocab_size out")
        return self.kind(**chosen)

    def size(self, width: int, depth: int) -> int:
        """How many parameters such a model has, without making it."""
        from huggingface_hub.errors import StrictDataclassError

        try:
            with torch.device("meta"), quiet():
                return self.auto.from_config(self.config(width, depth)).num_parameters()
        except (StrictDataclassError, *IMPOSSIBLE) as error:
            what = f"these values make no {self.kind.model_type} model ({line(error)})"
            raise UsageProblem(what, where="base.config") from error


def _key_value_heads(heads: int) -> int:
    """The largest divisor from a half to a quarter of the query heads, else as many as they are."""
    return max((n for n in range(1, heads // 2 + 1) if heads % n == 0 and 4 * n >= heads), default=heads)


def _config_class(name: str) -> type[PreTrainedConfig]:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    known = {kind.model_type for kind in (*MODEL_FOR_CAUSAL_LM_MAPPING, *MODEL_FOR_MASKED_LM_MAPPING)}
    if name not in known or name not in CONFIG_MAPPING:
        near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5) or ["qwen3", "llama"]
        what = f"transformers has no causal or masked language model called {name!r}"
        raise UsageProblem(what, where="base.architecture", remedy=f"try {', '.join(near)}")
    return CONFIG_MAPPING[name]


def _search(architecture: _Architecture, wanted: int) -> _Shape:
    """The shape the rule above asks for."""
    shapes = list(_shapes(architecture, wanted))
    nearest = min(shapes, key=lambda shape: abs(shape.size - wanted))
    if abs(nearest.size - wanted) > wanted / 2 and not {"hidden_size", "num_hidden_layers"} & set(architecture.given):
        what = f"no {architecture.kind.model_type} of {wanted:,} parameters; the nearest has {nearest.size:,}"
        raise UsageProblem(what, where="base.size", remedy="change the size, the vocabulary or single config fields")
    return min(shapes, key=lambda shape: shape.loss(wanted))


def _shapes(architecture: _Architecture, wanted: int) -> Iterator[_Shape]:
    """For each width, the depths around the wanted size; a model is its outside and ``depth`` equal layers."""
    width, depth = architecture.given.get("hidden_size"), architecture.given.get("num_hidden_layers")
    if not all(value is None or (type(value) is int and value > 0) for value in (width, depth)):
        raise UsageProblem("width and depth are whole numbers above zero", where="base.config")
    for wide in [width] if width else range(HEAD, WIDEST + 1, HEAD):
        if depth:
            shape = _Shape(wide, depth, architecture.size(wide, depth))
            yield shape
        else:
            one, two = architecture.size(wide, 1), architecture.size(wide, 2)
            layer = max(1, two - one)
            deep = max(1, round(1 + (wanted - one) / layer))
            shape = _Shape(wide, deep, one + (deep - 1) * layer)
            yield shape
        if shape.size > 2 * wanted:
            return
