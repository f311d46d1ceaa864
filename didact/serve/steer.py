"""What changes the logits before a token is chosen: penalties, biases, and a grammar that allows only some tokens."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from didact.errors import MissingExtra
from didact.rollout.decoder import Steer
from didact.serve.asked import Format, Sampled
from didact.serve.errors import Refused
from didact.text.render import Renderer

LONGEST_SCHEMA = 65_536  # characters


class Tilt:
    """OpenAI's penalties, subtracted for what the answer has said so far, and its biases, added."""

    def __init__(self, presence: float, frequency: float, bias: Mapping[int, float]):
        self.presence, self.frequency, self.bias = presence, frequency, dict(bias)

    def __call__(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits [V] of the next token."""
        change = {token: amount for token, amount in self.bias.items() if token < len(logits)}
        for token, times in Counter(tokens).items():
            change[token] = change.get(token, 0.0) - self.presence - self.frequency * times
        if not change:
            return logits
        at = torch.tensor(list(change), device=logits.device)
        return logits.index_add(0, at, torch.tensor(list(change.values()), dtype=logits.dtype, device=logits.device))


class Grammar:
    """Lets only tokens through after which the text can still become what the grammar describes.

    Stop tokens are among them where the text is complete. ``fault`` says why a grammar gave up, after which only a stop
    is allowed.
    """

    def __init__(self, matcher: Any, stops: Sequence[int]):
        self.matcher, self.stops, self.read, self.fault = matcher, list(stops), 0, ""

    def __call__(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits [V] of the next token, -inf where it may not come."""
        if not self.fault and not self.matcher.consume_tokens(list(tokens[self.read :])):
            self.fault = self.matcher.get_error()
        self.read = len(tokens)
        allowed = torch.zeros(len(logits), dtype=torch.bool)
        if not self.fault:
            bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
            size = min(len(bits), len(logits))
            allowed[:size] = torch.from_numpy(bits[:size].astype(np.bool_))
            self.fault = self.matcher.get_error() if self.matcher.is_error() else ""
        if self.fault or not allowed.any():
            allowed[:] = False
            allowed[self.stops] = True
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


class Grammars:
    """Makes grammars over one tokenizer, which is read into llguidance the first time, in about a second."""

    def __init__(self, renderer: Renderer, size: int):
        self.renderer, self.size = renderer, size
        self._tokenizer: Any = None

    def of(self, asked: Format) -> Grammar | None:
        """The grammar of a response format. Raises Refused for a schema that cannot be followed."""
        if asked.type == "text":
            return None
        try:
            from llguidance import LLMatcher
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingExtra("llguidance", "serve", "response_format") from error
        schema: dict[str, Any] = {"type": "object"}
        if asked.type == "json_schema":
            if asked.json_schema is None:
                raise Refused("response_format.json_schema is missing", param="response_format")
            schema = asked.json_schema.schema_
        written = json.dumps(schema)
        if len(written) > LONGEST_SCHEMA:
            raise Refused(f"the schema is longer than {LONGEST_SCHEMA} characters", param="response_format")
        if self._tokenizer is None:
            stops = list(self.renderer.stops)
            self._tokenizer = from_tokenizer(self.renderer.tokenizer, n_vocab=self.size, eos_token=stops)
        grammar = LLMatcher.grammar_from_json_schema(written, overrides={"whitespace_flexible": False})
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise Refused(f"this schema cannot be followed: {matcher.get_error()[:300]}", param="response_format")
        return Grammar(matcher, self.renderer.stops)


def steering(asked: Sampled, grammar: Grammar | None) -> Steer | None:
    """What a request wants changed; None for nothing."""
    bias = {int(token): amount for token, amount in (asked.logit_bias or {}).items()}
    presence, frequency = asked.presence_penalty or 0.0, asked.frequency_penalty or 0.0
    tilt = Tilt(presence, frequency, bias) if presence or frequency or bias else None
    if tilt and grammar:
        return lambda logits, tokens: grammar(tilt(logits, tokens), tokens)
    return tilt or grammar
