"""The held-out loss of any objective."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from didact.data.corpus import in_memory
from didact.data.example import Example
from didact.data.pieces import cut
from didact.engine.evaluate import evaluate
from didact.measure.base import Measure, Subject
from didact.model.extend import fit
from didact.objective import resolve
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer


@dataclass(frozen=True)
class Loss(Measure):
    """The mean of a term of ``objective`` over the examples, its randomness the same for every model.

    ``objective`` is a name, or ``{name: options}``; ``term`` chooses where it has several. A model that has no mask
    token and needs one is measured with a mask row that is the mean of its table.
    """

    unit = "nats"
    better = "lower"

    objective: Any = "causal"
    term: str | None = None
    context: int = 512
    batch_size: int = 8
    overlong: Literal["drop", "window"] = "window"

    def __call__(self, subject: Subject, examples: Sequence[Example]) -> float:
        """Mean loss an item."""
        name, options = (self.objective, {}) if isinstance(self.objective, str) else next(iter(self.objective.items()))
        objective, model, renderer = resolve(name, options or {}), subject.model, subject.renderer
        if objective.needs_mask and renderer.tokenizer.mask_token_id is None:
            tokenizer, model = tokenizers.with_mask(deepcopy(renderer.tokenizer)), deepcopy(model)
            fit(model.net, max(tokenizer.get_vocab().values()) + 1)
            renderer = Renderer(tokenizer)
        objective = objective.bind(tokenizers.vocabulary(renderer.tokenizer))
        reading = renderer.embedding(objective.served())
        parts = cut([in_memory(examples, reading)], self.context, self.overlong, joined=objective.joined)[0]
        return evaluate(model, objective, parts, self.context, subject.mesh, self.batch_size, self.term).loss
