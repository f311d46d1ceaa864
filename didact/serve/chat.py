"""``/v1/chat/completions``."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from didact.serve import spell, tools
from didact.serve.asked import ChatAsked
from didact.serve.engine import LOG, Piece
from didact.serve.errors import Refused
from didact.serve.flow import Flow, Left, Streamed
from didact.serve.ground import Grounded
from didact.serve.record import exchange
from didact.serve.served import Served
from didact.serve.state import State, drawn


@dataclass
class Answer:
    """One of the ``n`` answers as it grows."""

    text: str = ""
    sent: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[Any] = field(default_factory=list)
    reason: str = ""
    strip: bool = True

    def add(self, piece: Piece, stops: frozenset[int]) -> int:
        """Takes a piece in, without what only ends the turn; how many of its tokens are told."""
        self.text += piece.text
        if self.strip:  # a template may leave the space before an answer to the model
            self.text = self.text.lstrip()
        told = len(piece.tokens) - (bool(piece.tokens) and piece.tokens[-1] in stops)
        self.tokens += piece.tokens[:told]
        self.logprobs += piece.logprobs[:told]
        self.likeliest += piece.likeliest[:told]
        self.reason = piece.reason
        return told


class Talk:
    """A chat request on its way: what goes out, streamed or whole."""

    def __init__(self, state: State, served: Served, asked: ChatAsked, flow: Flow, seed: int, grounded: Grounded):
        self.state, self.served, self.asked, self.flow, self.seed = state, served, asked, flow, seed
        self.grounded = grounded
        self.stops = frozenset(served.named.renderer.stops)
        self.calls = bool(asked.tools) and asked.tool_choice != "none"
        plain = asked.response_format is None or asked.response_format.type == "text"
        self.preface = grounded.preface if plain and not self.calls else ""
        self.answers = [Answer() for _ in flow.asks]
        self.about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.name}

    def _spelled(self, answer: Answer, last: int | None = None) -> dict[str, Any] | None:
        """``logprobs`` of an answer's last tokens, if they were asked for."""
        if not self.asked.logprobs:
            return None
        part = slice(len(answer.tokens) - last, None) if last is not None else slice(None)
        rows = (answer.tokens[part], answer.logprobs[part], answer.likeliest[part])
        return {"content": spell.chat(self.served.writes.spell, *rows), "refusal": None}

    def _message(self, answer: Answer) -> tuple[dict[str, Any], str]:
        """An answer as a message, and why it ended."""
        text, calls = tools.split(answer.text) if self.calls else (answer.text, [])
        if calls:
            return {"role": "assistant", "content": text or None, "tool_calls": calls}, "tool_calls"
        return {"role": "assistant", "content": self.preface + text, "refusal": None}, answer.reason

    def _check(self, piece: Piece) -> None:
        grammar = self.flow.asks[piece.index].grammar
        if piece.reason and grammar is not None and grammar.fault:
            raise Refused(f"the schema could not be followed: {grammar.fault[:300]}", param="response_format")

    def _known(self) -> dict[str, Any]:
        """What is known before the first word: who answers, from which seed, on which sources."""
        adapter = {"adapter_hash": self.served.hash} if self.served.base else {}
        hashes = {"model_hash": (self.served.base or self.served).hash, **adapter}
        return {**hashes, "seed": self.seed, **self.grounded.told()}

    async def _own(self) -> dict[str, Any]:
        """What is Didact's own in the response, after everything else is known."""
        texts = [self._message(answer)[0]["content"] or answer.text for answer in self.answers]
        if self.state.log_prompts:
            LOG.info("asked %s; answered %s", json.dumps(self.asked.dialogue()), json.dumps(texts))
        own = self._known()
        if self.state.store and self.asked.didact.record:
            sizes = [len(answer.tokens) for answer in self.answers]
            pairs = list(zip(texts, sizes, strict=True))
            kept = exchange(self.served, self.asked, self.flow.asks, pairs, self.grounded)
            own["exchange"] = (await asyncio.to_thread(self.state.store.add, kept)).id
        return own

    async def whole(self) -> Response:
        """The response to a client that waits."""
        try:
            async for piece in self.flow.pieces():
                self.answers[piece.index].add(piece, self.stops)
                self._check(piece)
        except Left:
            return Response(status_code=499)
        choices = []
        for index, answer in enumerate(self.answers):
            message, reason = self._message(answer)
            rest = {"finish_reason": reason, "logprobs": self._spelled(answer)}
            choices.append({"index": index, "message": message, **rest})
        body = {**self.about, "object": "chat.completion", "choices": choices, "usage": self.flow.usage()}
        return JSONResponse({**body, "didact": await self._own()})

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream."""
        usage = bool(self.asked.stream_options and self.asked.stream_options.include_usage)
        base = {**self.about, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}

        def chunk(index: int, delta: dict[str, Any], reason: str | None = None, probs: Any = None) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": probs}
            return {**base, "choices": [choice]}

        for index in range(len(self.answers)):
            yield {**chunk(index, {"role": "assistant", "content": ""}), "didact": self._known()}
        async for piece in self.flow.pieces():
            answer = self.answers[piece.index]
            told = answer.add(piece, self.stops)
            self._check(piece)
            message, reason = self._message(answer) if piece.reason else (None, None)
            text = self.preface + answer.text if message is None else message["content"] or ""
            end = len(text) if message or not self.calls else tools.certain(text)
            fresh, answer.sent = text[answer.sent : end], max(end, answer.sent)
            probs = self._spelled(answer, told)
            if fresh or (probs and probs["content"]):
                yield chunk(piece.index, {"content": fresh}, probs=probs)
            if message is not None:
                calls = [{"index": i, **call} for i, call in enumerate(message.get("tool_calls", []))]
                own = {} if self.flow.left else {"didact": await self._own()}
                yield {**chunk(piece.index, {"tool_calls": calls} if calls else {}, reason), **own}
        if usage:
            yield {**base, "choices": [], "usage": self.flow.usage()}


def router(state: State) -> APIRouter:
    """The endpoint."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat_completions(asked: ChatAsked, request: Request) -> Response:
        served = state.served(asked.model)
        try:
            messages = asked.dialogue()
        except ValueError as error:
            raise Refused(str(error), param="messages") from None
        described = [tool.model_dump(exclude_none=True) for tool in asked.tools or []]
        shown = described if asked.tool_choice != "none" else []
        best = (asked.top_logprobs or 0) if asked.logprobs else 0
        bound, seed = asked.max_completion_tokens or asked.max_tokens, drawn(asked.seed)
        served.writes  # noqa: B018  # refuses a model that only embeds
        if asked.didact.record and not state.store:
            raise Refused("this server keeps no feedback", param="didact.record")

        def prepared() -> tuple[Grounded, list[Any]]:
            grounded = Grounded.of(state.ground, served, messages, shown, asked.didact.retrieve, bound)
            prompt = served.prompt(grounded.messages, shown)
            opening = served.opening(grounded.messages, shown)
            return grounded, served.asks(asked, prompt, seed, bound, best, opening, asked.response_format)

        grounded, asks = await asyncio.to_thread(prepared)
        talk = Talk(state, served, asked, Flow(state, served, asks, request), seed, grounded)
        return Streamed(talk.flow, talk.events()) if asked.stream else await talk.whole()

    return routes
