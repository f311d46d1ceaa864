"""Documents read once: what a model made of one while embedding it stands before any prompt later, unread.

GRIT's document cache (Muennighoff et al. 2024, arXiv:2402.09906, section 6): the keys and values of a document's
embedding pass are kept, and a question about it goes on from them. A causal embedding pass gives what reading document
and question together gives. A bidirectional one does not: its keys know the whole document, and generation was never
trained on such keys; how far apart the two are is the model's own affair, to be measured.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from didact.errors import DataProblem
from didact.model.attention import Sight
from didact.model.model import Model
from didact.rollout.cache import Held, SlotCache

MARKED = 64  # values of each weight that tell one model from another


@dataclass(frozen=True)
class DocumentCache:
    """A document as a model has read it.

    ``hidden`` [N, D] are the last hidden states, of which the document's vector is pooled; they are not stored.
    ``reader`` tells whose keys and values ``held`` are.
    """

    tokens: tuple[int, ...]
    held: Held
    reader: str
    hidden: Tensor | None = None

    @classmethod
    @torch.inference_mode()
    def read(cls, model: Model, documents: Sequence[Sequence[int]], bidirectional: bool) -> list["DocumentCache"]:
        """Reads documents packed in one row, each seeing itself alone: all of it, or from each token back."""
        lengths, device = [len(tokens) for tokens in documents], next(model.parameters()).device
        token, position, doc = packed_row(documents, device)
        ends = torch.tensor(list(accumulate(lengths)), device=device)
        reach = (ends - 1)[doc.long()] if bidirectional else torch.arange(token.shape[1], device=device)[None]
        body: Any = model.body
        cache, training = SlotCache(len(model.layers), device), model.training
        cache.open(lengths)
        model.eval()
        try:
            out = body(
                input_ids=token, position_ids=position, sight=Sight(doc, reach), past_key_values=cache, use_cache=True
            )
        finally:
            model.train(training)
        cache.filled()
        hidden, reader = out.last_hidden_state[0].split(lengths), mark(model)
        return [cls(tuple(document), cache.held(i), reader, hidden[i]) for i, document in enumerate(documents)]

    @classmethod
    def of(cls, model: Model, tokens: Sequence[int], bidirectional: bool) -> "DocumentCache":
        """Reads one document."""
        return cls.read(model, [tokens], bidirectional)[0]

    @torch.inference_mode()
    def onward(self, model: Model, tokens: Sequence[int]) -> "DocumentCache":
        """The document with more tokens behind it, each seeing all before it; the model is in evaluation mode."""
        cache = SlotCache(len(model.layers), next(model.parameters()).device)
        reach = cache.resume([self.held], [len(tokens)])
        body: Any = model.body
        body(
            input_ids=torch.tensor([list(tokens)], device=reach.device),
            position_ids=reach,
            sight=Sight.decode(reach),
            past_key_values=cache,
            use_cache=True,
        )
        cache.filled()
        return DocumentCache((*self.tokens, *tokens), cache.held(0), self.reader)

    def save(self, path: Path) -> None:
        """Writes tokens, keys and values as safetensors."""
        layers = enumerate(zip(self.held.key, self.held.value, strict=True))
        tensors = {f"{name}.{i}": x for i, both in layers for name, x in zip(("key", "value"), both, strict=True)}
        save_file(tensors, path, {"reader": self.reader, "tokens": json.dumps(self.tokens)})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "DocumentCache":
        """Reads a stored document. Raises DataProblem for a file that is none."""
        try:
            with safe_open(path, "pt", str(device)) as file:
                about, layers = file.metadata(), range(len(file.keys()) // 2)
                key, value = (tuple(file.get_tensor(f"{name}.{i}") for i in layers) for name in ("key", "value"))
            tokens = tuple(json.loads(about["tokens"]))
            reader = about["reader"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataProblem("no stored document", where=str(path), remedy="read the document again") from error
        return cls(tokens, Held(key, value), reader)


def packed_row(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and document numbers of texts one after the other, each [1, N]."""
    lengths = [len(text) for text in texts]
    token = torch.tensor([list(chain.from_iterable(texts))], device=device)
    position = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
    doc = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor(lengths))[None].to(device)
    return token, position, doc


def mark(model: Model) -> str:
    """A hash of a few values of every weight: keys and values mean nothing to other weights."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        few = weight.detach().flatten()[:MARKED].double().cpu()
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()
