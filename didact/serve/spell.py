"""Log-probabilities as OpenAI writes them."""

from collections.abc import Callable, Sequence
from typing import Any

from didact.rollout.text import BROKEN

Spell = Callable[[int], str]


def chat(spell: Spell, tokens: Sequence[int], logprobs: Sequence[float], best: Sequence[Any]) -> list[dict[str, Any]]:
    """``logprobs.content`` of a chat answer."""
    rows = best or [[]] * len(tokens)
    return [
        {**_one(spell, token, logprob), "top_logprobs": [_one(spell, *pair) for pair in row]}
        for token, logprob, row in zip(tokens, logprobs, rows, strict=True)
    ]


def text(
    spell: Spell, tokens: Sequence[int], logprobs: Sequence[float | None], best: Sequence[Any], offset: int
) -> dict[str, Any]:
    """``logprobs`` of a text completion whose first token stands at ``offset``."""
    words = [spell(token) for token in tokens]
    places = [offset + sum(map(len, words[:i])) for i in range(len(words))]
    top = [{spell(token): logprob for token, logprob in row} for row in best] if best else None
    return {"tokens": words, "token_logprobs": list(logprobs), "top_logprobs": top, "text_offset": places}


def _one(spell: Spell, token: int, logprob: float) -> dict[str, Any]:
    word = spell(token)
    return {"token": word, "logprob": logprob, "bytes": None if BROKEN in word else list(word.encode())}
