"""Reward models as folders: a sequence classifier of transformers with one number for a text.

The other members of an ensemble are adapters of PEFT in folders below it: the first one's weights are their base.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from didact.errors import DataProblem, UsageProblem
from didact.model import attention, lora
from didact.model.encoder import encodes
from didact.model.folder import write_folder
from didact.model.load import CONFIG, load, quiet, resolve
from didact.model.model import Model
from didact.model.save import compare, save_model, standard_state
from didact.model.shards import read_json, shards
from didact.objective.base import Head
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FACTS = "facts.json"
HEAD = "score"  # what transformers calls it, and PEFT saves whole


@dataclass(frozen=True)
class Classifier:
    """A network whose head ``reward`` says what a text is worth, and ``facts`` it knows of itself."""

    model: Model
    renderer: Renderer
    facts: Mapping[str, Any]
    where: Path


def check_classifier(net: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stops: Collection[int]) -> None:
    """Raises, before anything is trained, what would keep a network from being saved as a classifier.

    UsageProblem for an architecture that transformers gives another kind of head, DataProblem for a tokenizer.
    """
    with torch.device("meta"):
        _classifier(net)
    _padding(tokenizer, stops)


def classifier(net: PreTrainedModel, weight: Tensor) -> PreTrainedModel:
    """The same body with one linear head, ``weight`` [D], on the last token."""
    made = _classifier(net)
    body, prefix = made.base_model, f"{made.base_model_prefix}."
    state = {name.removeprefix(prefix): tensor for name, tensor in standard_state(net).items()}
    with torch.no_grad():
        body.load_state_dict({name: state[name] for name in body.state_dict()})
        made.get_parameter(f"{HEAD}.weight").copy_(weight[None])
    return made


def _classifier(net: PreTrainedModel) -> PreTrainedModel:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

    config: Any = type(net.config).from_dict(net.config.to_dict())
    config.num_labels = 1
    what = f"{type(net).__name__} cannot be left as a classifier that reads the last token"
    problem = UsageProblem(what, remedy="train the reward model from a causal language model")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or encodes(config):
        raise problem
    with quiet():
        made: Any = AutoModelForSequenceClassification.from_config(config, dtype=net.dtype)
    shapes = {name: tuple(weight.shape) for name, weight in made.named_parameters()}
    if shapes.get(f"{HEAD}.weight") != (1, config.get_text_config().hidden_size):
        raise problem
    return made


def save_classifier(
    net: PreTrainedModel,
    weight: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    stops: Collection[int],
    folder: Path,
    facts: Mapping[str, Any],
    extra_files: Mapping[str, str] | None = None,
    template: str | None = None,
    others: Mapping[str, Path] | None = None,
) -> None:
    """Writes the folder, and proves it by reading it back; ``facts`` go into its ``config.json``, under ``didact``.

    ``others`` are the folders of ``save_member`` by the names that they get in it. transformers reads the last token
    that is not padding, so padding becomes a token that ends nothing.
    """
    made: Any = classifier(net, weight)
    files: dict[str, str | bytes] = dict(extra_files or {})
    for name, place in (others or {}).items():
        files |= {f"{name}/{file}": content for file, content in _relative(made, net, place, folder).items()}
        facts = {**facts, "members": {**facts.get("members", {}), name: read_json(place / FACTS)}}
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_padding(tokenizer, stops))
    made.config.pad_token_id = tokenizer.pad_token_id
    made.config.didact = {"reward": dict(facts)}
    save_model(made, tokenizer, folder, template=template, extra_files=files)


def save_member(net: PreTrainedModel, weight: Tensor, folder: Path, facts: Mapping[str, Any]) -> None:
    """Keeps what one member of an ensemble has learned until ``save_classifier`` puts all of them together."""
    with write_folder(folder) as fresh:
        for name, content in lora.adapter_files(net, "", {HEAD: weight[None]}).items():
            (fresh / name).write_bytes(content)
        (fresh / FACTS).write_text(json.dumps(facts))


def _relative(made: PreTrainedModel, net: PreTrainedModel, place: Path, folder: Path) -> dict[str, bytes]:
    """The files of an adapter that makes of ``made``, into which the updates of ``net`` are merged, another member.

    Their difference is a LoRA of twice the rank: B' A' - B A = [B', -B] [A'; A]. It is held against the member itself.
    """
    learned, own, prefix = load_file(place / lora.WEIGHTS), lora.adapted(net), f"{made.base_model_prefix}."
    member = lora.sharing(net)
    for name, one in lora.adapted(member).items():
        a, b = (learned[f"{lora.PREFIX}{name}.{part}.weight"].to(net.device) for part in ("lora_A", "lora_B"))
        first = own[name]
        wide = lora.adapt(made, prefix + name.removeprefix(prefix), 2 * len(a), one.scale)
        wide.lora_A.weight.data = torch.cat([a, first.lora_A.weight])  # [2 r, in]
        wide.lora_B.weight.data = torch.cat([b, -first.lora_B.weight], 1)  # [out, 2 r]
        one.lora_A.weight, one.lora_B.weight = nn.Parameter(a), nn.Parameter(b)
    compare(cast("PreTrainedModel", member.base_model), cast("PreTrainedModel", made.base_model), folder)
    files = lora.adapter_files(made, str(folder.resolve()), {HEAD: learned[f"{lora.PREFIX}{HEAD}.weight"]})
    for name, layer in lora.adapted(made).items():
        made.set_submodule(name, layer.base)
    return files


def _padding(tokenizer: PreTrainedTokenizerFast, stops: Collection[int]) -> int:
    ends = {*stops, tokenizer.eos_token_id}
    own = [token for token in (tokenizer.pad_token_id,) if token is not None]
    for token in (*own, *sorted(token for token in tokenizer.all_special_ids)):
        if token not in ends:
            return token
    what = "the tokenizer has no token that could be padding and does not end a text"
    raise DataProblem(what, remedy="give it a padding token of its own: tune: {tokens: ['<|pad|>']}")


def open_classifiers(where: str | Path, device: torch.device, dtype: torch.dtype) -> list[Classifier]:
    """The reward models of a folder: its sequence classifier with one output, and the other members of its ensemble.

    The weights of the base are in memory once. Raises DataProblem for anything else.
    """
    attention.register()
    folder = resolve(where)
    told = read_json(folder / CONFIG)
    found = [tensors[f"{HEAD}.weight"] for path in shards(folder) if f"{HEAD}.weight" in (tensors := load_file(path))]
    if len(found) != 1 or found[0].shape[0] != 1:
        what = "is no reward model: it has no score of one number"
        raise DataProblem(what, where=str(folder), remedy="name what a reward stage left, such as reward/model")
    facts = (told.get("didact") or {}).get("reward") or {}
    renderer = Renderer(tokenizers.load(folder))
    net = load(folder, dtype, auto="base").to(device)  # type: ignore
    first = Classifier(_scoring(net, found[0]), renderer, facts, folder)
    members = facts.get("members") or {}
    return [first, *(_member(first, folder / name, members[name]) for name in members)]


def _member(first: Classifier, folder: Path, facts: Mapping[str, Any]) -> Classifier:
    net = lora.sharing(first.model.net)
    weight = lora.load_adapter(net, folder, f"{lora.PREFIX}{net.base_model_prefix}.", (HEAD,))[HEAD]
    if weight.shape != first.model.heads["reward"].get_parameter("weight").shape:
        raise DataProblem(f"its {HEAD} has the shape {list(weight.shape)}", where=str(folder / lora.WEIGHTS))
    return Classifier(_scoring(net, weight), first.renderer, facts, folder)


def _scoring(net: PreTrainedModel, weight: Tensor) -> Model:
    """The network with a head ``reward`` of the weight [1, D], to be used as it is."""
    model = Model(net)
    model.add_heads({"reward": Head(1)})
    with torch.no_grad():
        model.heads["reward"].get_parameter("weight").copy_(weight.float())
    return model.to(net.device).eval().requires_grad_(False)
