"""A model under the name that clients know it by, with all that answering takes."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from didact.model.embed import Embedder
from didact.rollout.document import mark
from didact.rollout.settings import Sampling
from didact.run.named import Named
from didact.serve.asked import SEEDS, Format, Sampled
from didact.serve.engine import Ask
from didact.serve.errors import Refused
from didact.serve.lane import Canvas, Lane
from didact.serve.steer import Grammar, Grammars, steering
from didact.text.render import Tools

COLD = 1e-3  # a temperature below is none: logits divided by it are no numbers any more
ANSWER = 1024  # tokens of an answer whose request names no bound


@dataclass(eq=False)
class Served:
    """A model by name: ``lane`` is None for one that only embeds, ``base`` is what an adapter adapts.

    Tokenizers are used one thread at a time.
    """

    name: str
    named: Named
    lane: Lane | None
    base: "Served | None" = None
    created: int = field(default_factory=lambda: int(time.time()))
    reading: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def hash(self) -> str:
        """Which weights these are."""
        return mark(self.named.model)[:16]

    @cached_property
    def grammars(self) -> Grammars:
        """Grammars over this model's tokens."""
        table: Any = self.named.model.net.get_input_embeddings()
        return Grammars(self.named.renderer, table.weight.shape[0])

    @cached_property
    def embedder(self) -> Embedder | None:
        """What makes vectors, where the model was trained to."""
        if not self.named.model.served.get("embedding"):
            return None
        return Embedder.of(self.named.model, self.named.renderer)

    @property
    def writes(self) -> Lane:
        """The lane that writes. Raises Refused where there is none."""
        if self.lane is None:
            raise Refused(f"the model {self.name!r} embeds only", param="model", code="model_not_supported")
        return self.lane

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Tools) -> list[int]:
        """The ids an answer starts from; nothing that a message spells becomes a control token."""
        with self.reading:
            return self.named.renderer.guarded(messages, tools)

    def opening(self, messages: Sequence[dict[str, Any]], tools: Tools) -> int | None:
        """How many tokens stand before the first answer, for a model that reads these in both directions."""
        if not self.named.model.bidirectional_prompt:
            return None
        first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
        return len(self.prompt(messages[:first], tools))

    def encode(self, text: str) -> list[int]:
        """The ids of a text to go on from; control tokens it spells are such, as the whole prompt is the client's."""
        with self.reading:
            return self.named.renderer.beginning(text)

    def asks(
        self,
        asked: Sampled,
        prompt: Sequence[int],
        seed: int,
        bound: int | None = None,
        best: int = 0,
        opening: int | None = None,
        form: Format | None = None,
    ) -> list[Ask]:
        """The ``n`` completions of one prompt. Raises Refused for what the model cannot take."""
        lane, size, count = self.writes, len(prompt), asked.n or 1
        if size >= lane.longest:
            what = f"this model's context is {lane.longest} tokens; the messages came to {size}"
            raise Refused(what, param="messages", code="context_length_exceeded")
        if bound is not None and size + bound > lane.longest:
            what = f"{size} tokens of prompt and {bound} of answer are more than this model's {lane.longest}"
            raise Refused(what, param="max_tokens", code="context_length_exceeded")
        if size == 0:
            raise Refused("the prompt is empty", param="prompt")
        if isinstance(lane, Canvas) and (best or asked.presence_penalty or asked.frequency_penalty or asked.logit_bias):
            raise Refused("a model that writes by unmasking knows no top_logprobs, biases or such penalties")
        way = self._sampling(asked, min(bound or ANSWER, lane.longest - size))
        ways = [way.model_copy(update={"seed": (seed + i) % SEEDS}) for i in range(count)]
        grammars = [self._grammar(form) for _ in range(count)]
        return [
            Ask(prompt, way, opening, steering(asked, grammar), best, grammar)
            for way, grammar in zip(ways, grammars, strict=True)
        ]

    def _grammar(self, form: Format | None) -> Grammar | None:
        if form is None or form.type == "text":
            return None
        if isinstance(self.lane, Canvas):
            raise Refused("a model that writes by unmasking follows no response_format", param="response_format")
        with self.reading:
            return self.grammars.of(form)

    @staticmethod
    def _sampling(asked: Sampled, room: int) -> Sampling:
        wanted = {
            "temperature": asked.temperature if (asked.temperature or 1) >= COLD else 0.0,
            "top_p": None if asked.top_p is None else max(asked.top_p, 1e-6),
            "top_k": None if asked.top_k is None else max(asked.top_k, 0),  # -1 is all of them, as to vLLM
            "min_p": asked.min_p,
            "repetition_penalty": asked.repetition_penalty,
        }
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        return Sampling(max_new_tokens=room, stop=asked.stops, **given)


def public_name(name: str) -> str:
    """The name of a model on the command line as clients say it: a folder's own name, a hub id as it is."""
    path = Path(name).expanduser()
    return (path.resolve().stem if path.suffix == ".gguf" else path.resolve().name) if path.exists() else name
