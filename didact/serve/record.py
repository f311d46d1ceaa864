"""A chat exchange as the feedback store keeps it, where the client asks for that."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from didact.feedback.records import Candidate, Exchange, Message, Passage
from didact.serve.asked import ChatAsked
from didact.serve.engine import Ask
from didact.serve.errors import Refused
from didact.serve.ground import Grounded
from didact.serve.served import Served

EXACT = 1 << 53  # whole numbers from here on are not kept exactly by every database
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "seed")


def exchange(
    served: Served, asked: ChatAsked, asks: Sequence[Ask], answers: Sequence[tuple[str, int]], grounded: Grounded
) -> Exchange:
    """The prompt as it was asked, each answer as (text, tokens), and what it stood on."""
    try:
        return Exchange(
            prompt=tuple(Message(role=one["role"], content=one["content"]) for one in asked.dialogue()),
            candidates=tuple(
                Candidate(text=text, tokens=tokens, sampling=_sampling(asked, ask), **_made_by(served))
                for ask, (text, tokens) in zip(asks, answers, strict=True)
            ),
            passages=tuple(
                Passage(text=one.text, source=one.source, heading=one.heading, score=one.score)
                for one in grounded.passages
            ),
            conversation=asked.didact.conversation,
            annotator=asked.didact.annotator,
            page=asked.didact.page or "",
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(f"this exchange cannot be kept: {first['msg']}", param="didact.record") from None


def _made_by(served: Served) -> dict[str, str]:
    adapter = served.hash if served.base else ""
    return {"model": served.name, "model_hash": (served.base or served).hash, "adapter_hash": adapter}


def _sampling(asked: ChatAsked, ask: Ask) -> dict[str, Any]:
    kept: dict[str, Any] = {name: getattr(ask.sampling, name) for name in SETTINGS}
    kept["seed"] = kept["seed"] if kept["seed"] < EXACT else str(kept["seed"])
    kept |= {"presence_penalty": asked.presence_penalty or 0, "frequency_penalty": asked.frequency_penalty or 0}
    return {**kept, "stop": "\n".join(asked.stops)}
