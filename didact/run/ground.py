"""What a stage stands on, and what reads data and models for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from didact.data.pieces import Counts, Pieces, cut, filled
from didact.data.sets import subset, tokenized
from didact.data.settings import Data
from didact.engine.evaluate import Score
from didact.engine.mesh import Mesh
from didact.engine.precision import Numerics, pick_dtype
from didact.errors import DataProblem, UsageProblem
from didact.model import attention, heads
from didact.model.load import load
from didact.model.model import Model
from didact.model.settings import Scratch
from didact.objective.base import Objective
from didact.run.teach import taught
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer

PLAIN = Objective()  # of documents and chats, each by itself


@dataclass(frozen=True)
class Ground:
    """What a stage stands on: where the model is now, what earlier stages left, this process, and a voice."""

    model: Path | None
    scratch: Scratch | None
    tokenizer: Path | None
    base: Path | None
    outputs: Mapping[str, Path]
    cache: Path
    mesh: Mesh
    say: Callable[[str], None]
    recipe: str = ""
    parent: str = ""

    def tokens(self) -> PreTrainedTokenizerFast:
        """The tokenizer in force, read afresh, since a stage may add tokens to it."""
        folder = self.tokenizer or self.model
        if folder is None:
            raise UsageProblem("a model from scratch needs a tokenizer", remedy="put a tokenizer stage before it")
        return tokenizers.load(folder)

    def renderer(self, new: Sequence[str] = ()) -> Renderer:
        """The renderer of the tokenizer in force, with the tokens that a stage will add."""
        tokenizer = self.tokens()
        tokenizer.add_tokens(list(new))
        return Renderer(tokenizer)


def opened(where: Path, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Model, Renderer]:
    """A finished model on a device, in ``dtype`` or the device's own, and what reads text for it."""
    attention.register()
    net = load(where, dtype or pick_dtype("auto", device))
    renderer = Renderer(tokenizers.load(where), endings(net))
    check_vocabulary(net, renderer.tokenizer, where)
    model = Model(net)
    heads.restore(model, where)
    return model.to(device), renderer


def check_vocabulary(net: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, where: Path) -> None:
    """Raises DataProblem where the tokenizer has ids beyond the model's table: the two belong to different models."""
    table: Any = net.get_input_embeddings()
    rows, size = table.weight.shape[0], max(tokenizer.get_vocab().values()) + 1
    if size > rows:
        raise DataProblem(
            f"the tokenizer has {size:,} tokens, the model's table {rows:,} rows",
            where=str(where),
            remedy="use the tokenizer files the model was published with",
        )


def endings(net: PreTrainedModel) -> list[int]:
    """The ids with which the model's own generation settings end."""
    ends = net.generation_config.eos_token_id if net.can_generate() and net.generation_config else None
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def parts_of(
    data: Data,
    ground: Ground,
    renderer: Renderer,
    seed: int,
    context: int,
    limit: int | None = None,
    overlong: Literal["drop", "window"] = "window",
    objective: Objective = PLAIN,
    numerics: Numerics | None = Numerics(),
) -> tuple[list[Pieces], Counts]:
    """Data as tokens in pieces of ``context`` at most, as ``objective`` reads it, and what was counted on the way.

    What another model makes of it is computed with ``numerics``, and left out where there are none. Every process
    calls it.
    """
    if not ground.mesh.main:
        ground.mesh.barrier()  # the first process fills the cache
    corpora = tokenized(data, ground.outputs, seed, renderer, ground.cache / "tokens", objective)
    if numerics and (teacher := objective.taught_by()):
        corpora = taught(teacher, data, corpora, ground, renderer, seed, context, numerics)
    if ground.mesh.main:
        ground.mesh.barrier()
    if limit:
        corpora = [subset(c, limit, seed) for c in corpora]
    if objective.filled() > 1:
        corpora = [filled(c, objective.filled()) for c in corpora]
    return cut(corpora, context, overlong, ", ".join(source.path for source in data.sources), objective.joined)


def before_after(before: Score | None, after: Score | None) -> dict[str, float] | None:
    """Two scores of the same data as the facts of a stage; None where nothing was scored."""
    if after is None:
        return None
    numbers = {"after": after.bits_per_byte, "tokens": after.tokens, "bytes": after.text_bytes}
    return numbers if before is None else {"before": before.bits_per_byte, **numbers}
