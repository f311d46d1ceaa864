"""How a text becomes a vector, in the files of sentence-transformers: written beside a model, and read from one.

``SentenceTransformer(folder)`` then gives the vectors that Didact gives. A decoder that embeds in both directions stays
causal for everybody else: only sentence-transformers is told to read it so (``config_args`` below), because the same
weights may also write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from didact.errors import DataProblem, UsageProblem
from didact.model.encoder import encodes
from didact.model.shards import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

MODULES, SETTINGS, BERT = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING = "1_Pooling/config.json"
MODES = {"mean": "mean_tokens", "last": "lasttoken", "cls": "cls_token"}  # after pooling_mode_
NEWER = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
DOCUMENT = ("document", "passage", "corpus")  # the names sentence-transformers knows for that role


def files(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, embedding: dict[str, Any]) -> dict[str, bytes]:
    """The files by name. Raises UsageProblem for an encoder that was trained to read causally."""
    if encodes(config) and not embedding["bidirectional"]:
        what = f"a {config.model_type} model reads in both directions, and this one was trained to embed causally"
        raise UsageProblem(what, remedy="set bidirectional: true")
    reading: dict[str, Any] = {"max_seq_length": embedding.get("length"), "do_lower_case": False}
    if not encodes(config):
        reading["config_args"] = {"is_causal": not embedding["bidirectional"]}
        if tokenizer.pad_token is None:  # it reads several texts at once
            reading["tokenizer_args"] = {"pad_token": tokenizer.eos_token}
    kinds = ["Transformer", "Pooling", *(["Normalize"] if embedding.get("normalize", True) else [])]
    places = ["", "1_Pooling", "2_Normalize"]
    content: dict[str, Any] = {
        MODULES: [
            {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, place) in enumerate(zip(kinds, places, strict=False))
        ],
        POOLING: {
            "word_embedding_dimension": config.get_text_config().hidden_size,
            **{f"pooling_mode_{mode}": embedding["pool"] == pool for pool, mode in MODES.items()},
            "include_prompt": embedding.get("pool_prompts", False),
        },
        BERT: reading,
        SETTINGS: {
            "prompts": {"query": "", "document": ""} | embedding["prompts"],
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    return {name: orjson.dumps(each, option=orjson.OPT_INDENT_2) + b"\n" for name, each in content.items()}


def read(folder: Path) -> dict[str, Any]:
    """How the model in a folder of sentence-transformers is to be read, {} for another folder.

    ``pool``, ``bidirectional``, ``prompts`` by role, whether these are pooled (``pool_prompts``), whether the vector
    has unit length (``normalize``), and the longest text in tokens (``length``), where there is a bound. Raises
    DataProblem for what Didact does not compute.
    """
    if not (folder / MODULES).is_file():
        return {}
    try:
        kinds = [module["type"].rpartition(".")[2] for module in orjson.loads((folder / MODULES).read_bytes())]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataProblem("not a list of modules", where=str(folder / MODULES), remedy="fetch it again") from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        what = f"makes a vector by {' + '.join(kinds)}, which Didact does not compute"
        raise DataProblem(what, where=str(folder / MODULES), remedy="choose a model of Transformer, Pooling, Normalize")
    pooling = read_json(folder / POOLING)
    bert, settings = (read_json(folder / name) if (folder / name).is_file() else {} for name in (BERT, SETTINGS))
    prompts = settings.get("prompts") or {}
    document = next((prompts[name] for name in DOCUMENT if prompts.get(name)), "")
    given = {"query": prompts.get("query") or "", "document": document}
    causal = (bert.get("config_args") or {}).get("is_causal", read_json(folder / "config.json").get("is_causal"))
    found = {
        "pool": _pool(folder, pooling),
        "prompts": {role: prompt for role, prompt in given.items() if prompt},
        "pool_prompts": pooling.get("include_prompt", True),
        "normalize": "Normalize" in kinds,
        "length": bert.get("max_seq_length"),
        "bidirectional": None if causal is None else not causal,
    }
    return {name: value for name, value in found.items() if value is not None}


def _pool(folder: Path, pooling: dict[str, Any]) -> str:
    modes = [pool for pool, mode in MODES.items() if pooling.get(f"pooling_mode_{mode}")]
    modes += [NEWER[pooling["pooling_mode"]]] if pooling.get("pooling_mode") in NEWER else []
    named = {key for key, value in pooling.items() if key.startswith("pooling_mode") and value}
    if len(modes) != 1 or len(named) != 1:
        what = f"pools by {', '.join(sorted(named)) or 'nothing'}"
        raise DataProblem(what, where=str(folder / POOLING), remedy="choose a model that pools by mean, last or cls")
    return modes[0]
