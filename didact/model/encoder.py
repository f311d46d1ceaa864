"""Encoders (BERT and its kin): what stands between their last hidden state and their decoder matrix, how they count.

Nothing here is trusted: ``Model.check`` holds what comes of it against the network's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Auto = Literal["causal", "masked", "base", "classifier"]
AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "data2vec-text")
UNBOUNDED = 1 << 30
Between = Callable[[Tensor], Tensor]


def kind_named(config: PreTrainedConfig) -> Auto:
    """Which kind of class a checkpoint is of, as its configuration says.

    ``base`` has no head; a checkpoint of another class (a classifier) is read as what its architecture predicts.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    name, written = config.model_type, (config.architectures or [""])[0]
    if written == MODEL_MAPPING_NAMES.get(name):
        return "base"
    if written == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(name):
        return "causal"
    return "masked" if encodes(config) and name in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "causal"


def encodes(config: PreTrainedConfig) -> bool:
    """Whether the architecture reads text in both directions; BERT and its kin do unless made a decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def kind_of(net: PreTrainedModel) -> Auto:
    """The kind of a network."""
    if type(net).__name__.endswith("ForSequenceClassification"):
        return "classifier"
    if net.get_output_embeddings() is None:
        return "base"
    return "masked" if type(net).__name__.endswith("ForMaskedLM") else "causal"


def auto_class(kind: Auto) -> Any:
    """The class of transformers that builds and opens networks of a kind."""
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
    )

    language = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
    return {**language, "base": AutoModel, "classifier": AutoModelForSequenceClassification}[kind]


def between(net: PreTrainedModel) -> Between | None:
    """What a masked language model does to hidden states [..., D] before its decoder matrix; None for nothing."""
    made: Any = net
    if kind_of(net) != "masked":
        return None
    match net.config.model_type:
        case "bert" | "ernie" | "nomic_bert":
            return made.cls.predictions.transform
        case "modernbert":
            return made.head
        case "roberta" | "xlm-roberta" | "camembert" | "roberta-prelayernorm" | "data2vec-text" | "jina_embeddings_v3":
            return lambda h: made.lm_head.layer_norm(F.gelu(made.lm_head.dense(h)))
        case "distilbert":
            return lambda h: made.vocab_layer_norm(made.activation(made.vocab_transform(h)))
        case "electra":
            return made.generator_predictions
        case "albert":
            head = made.predictions
            return lambda h: head.LayerNorm(head.activation(head.dense(h)))
    return None


def first_position(model_type: str, padding: int | None) -> int:
    """Where positions begin: RoBERTa and its kin count from the one after the padding's row of their table."""
    return (padding or 0) + 1 if model_type in AFTER_PADDING else 0


def positions(config: PreTrainedConfig) -> int:
    """How many tokens a model was made to see at once."""
    body = config.get_text_config()
    longest = getattr(body, "max_position_embeddings", None)
    return longest - first_position(body.model_type, body.pad_token_id) if longest else UNBOUNDED
