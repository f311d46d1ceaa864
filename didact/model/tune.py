"""What of a model is trainable: everything, the head, the last layers, a LoRA, and rows for new tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from didact.errors import UsageProblem
from didact.model import lora
from didact.model.extend import extend, lengthen
from didact.model.settings import Lora, Tune

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Tuned:
    """The trainable parameters by name, how many numbers they hold, how many the model holds, and what to know."""

    names: tuple[str, ...]
    count: int
    total: int
    note: str = ""

    @property
    def share(self) -> float:
        """Trainable numbers over all."""
        return self.count / self.total


def apply(model: PreTrainedModel, tune: Tune, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0) -> Tuned:
    """Makes just the chosen parameters trainable, in place; ``tokens`` also adds them to the tokenizer.

    Raises UsageProblem for a choice the model does not offer.
    """
    model.requires_grad_(False)
    note = ""
    if tune.what == "all":
        model.requires_grad_(True)
    elif tune.what == "head":
        note = _head(model)
    elif tune.what == "last":
        _last(model, tune.last or 0)
    elif tune.what == "lora":
        lora.add(model, tune.lora or Lora(), seed)
    if tune.tokens:
        _tokens(model, tokenizer, tune, seed)
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    total = sum(p.numel() for p in model.parameters())
    return Tuned(tuple(trainable), sum(trainable.values()), total, note)


def _head(model: PreTrainedModel) -> str:
    head: Any = model.get_output_embeddings()
    if head is None:
        raise UsageProblem(f"{type(model).__name__} has no head", where="tune", remedy="choose what else to train")
    head.requires_grad_(True)
    embedding: Any = model.get_input_embeddings()
    return "the head is tied to the embedding table: both are trained" if head.weight is embedding.weight else ""


def layers(model: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList]:
    """The stack of layers, which is the longest module list of the body, and the module that holds it."""
    found = [
        (module, child)
        for module in model.base_model.modules()
        for child in module.children()
        if isinstance(child, nn.ModuleList)
    ]
    if not found:
        raise UsageProblem(f"{type(model).__name__} has no stack of layers", where="tune.last")
    return max(found, key=lambda pair: len(pair[1]))


def _last(model: PreTrainedModel, count: int) -> None:
    """The last ``count`` layers and what follows them in the body: the final norm."""
    holder, stack = layers(model)
    if count > len(stack):
        what = f"the model has {len(stack)} layers, not {count}"
        raise UsageProblem(what, where="tune.last", remedy=f"choose 1 to {len(stack)}")
    children = list(holder.children())
    after = children[children.index(stack) + 1 :]
    for module in [*stack[len(stack) - count :], *after]:
        module.requires_grad_(True)


def _tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None, tune: Tune, seed: int) -> None:
    """Adds the tokens to the tokenizer and trainable rows for them to the model; the old rows train with ``all`` alone.

    A row starts at the mean of the rows of the tokens that say what it means, so far its own pieces or a description
    of it, plus noise of a hundredth of the table's spread, so that tokens of the same meaning part.
    """
    tokens = list(tune.tokens)
    if tokenizer is None:
        raise UsageProblem("new tokens need the model's tokenizer", where="tune.tokens")
    known = tokenizer.get_vocab()
    for i, token in enumerate(tokens):
        if not token or token in known or token in tokens[:i]:
            what = f"{token!r} is a token already" if token else "a token needs letters"
            raise UsageProblem(what, where="tune.tokens", remedy="choose another spelling")
    pieces = [tokenizer.encode(meaning, add_special_tokens=False) for meaning in map(tune.meanings.get, tokens)]
    if [] in pieces:
        what = f"nothing is said of {tokens[pieces.index([])]!r}"
        raise UsageProblem(what, where="tune.tokens", remedy="describe it in words")
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    _check_extensible(model)
    start = max(known.values()) + 1
    if start > embedding.weight.shape[0]:
        what = f"the tokenizer has {start} tokens, the model {embedding.weight.shape[0]}"
        raise UsageProblem(what, where="tune.tokens", remedy="use the model's own tokenizer")
    tokenizer.add_tokens(tokens)
    if tokenizer.convert_tokens_to_ids(tokens) != list(range(start, start + len(tokens))):
        raise UsageProblem("this tokenizer does not number new tokens after its own", where="tune.tokens")
    rows = _begin(embedding.weight, pieces, seed), _begin(head.weight, pieces, seed + 1)
    if tune.what == "all":
        lengthen(model, start, *rows)
        model.requires_grad_(True)
    else:
        extend(model, start, *rows)


def _check_extensible(model: PreTrainedModel) -> None:
    """Raises UsageProblem for a head that new rows cannot join: none, or one whose bias is kept beside it (BERT)."""
    head: Any = model.get_output_embeddings()
    why = "no head" if head is None else ""
    if head is not None and sum(p is head.bias for _, p in model.named_parameters(remove_duplicate=False)) > 1:
        why = "a bias outside its head"
    if why:
        what = f"{type(model).__name__} has {why}, so new rows cannot join it"
        raise UsageProblem(what, where="tune.tokens", remedy="choose a causal language model")


def _begin(table: Tensor, pieces: list[list[int]], seed: int) -> Tensor:
    """First values of new rows [N, D] of a table [V, D]."""
    with torch.no_grad():
        means = torch.stack([table[torch.tensor(ids)].float().mean(0) for ids in pieces])  # [N, D]
        noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed))
        return (means + 0.01 * table.float().std() * noise.to(table.device)).to(table.dtype)
