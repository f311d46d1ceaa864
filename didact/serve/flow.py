"""A request's pieces from the engine to the client, whether it waits for all or reads them as they come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from didact.errors import Problem
from didact.serve import errors
from didact.serve.engine import LOG, Ask, Broken, Left, Piece, Ticket
from didact.serve.metrics import Clock
from didact.serve.served import Served
from didact.serve.state import State

DONE = b"data: [DONE]\n\n"
POLL = 0.1  # seconds between two looks whether a client that waits is still there


class Flow:
    """One request in the engine. Whatever happens, its slots are freed in the end."""

    def __init__(self, state: State, served: Served, asks: Sequence[Ask], request: Request):
        self.state, self.request = state, request
        self.asks = list(asks)
        self.ticket: Ticket = state.engine.submit(served.writes, self.asks)
        prompts = {id(ask.prompt): len(ask.prompt) for ask in asks}
        self.prompt_tokens = sum(prompts.values())
        self.answer_tokens, self.left = 0, len(asks)
        self.clock = Clock(state.metrics, served.name, self.ticket.asked, list(prompts.values()))

    async def pieces(self) -> AsyncIterator[Piece]:
        """Every piece of every answer. Raises Broken, and Left once the client has gone."""
        watch = asyncio.ensure_future(self._watch())
        try:
            while self.left:
                piece = await self.ticket.next()
                self.clock.saw(piece)
                self.answer_tokens += len(piece.tokens)
                self.left -= bool(piece.reason)
                yield piece
        finally:
            watch.cancel()
            self.close()

    def close(self) -> None:
        """Frees the slots of what is not finished."""
        if self.left:
            self.left = 0
            self.state.engine.cancel(self.ticket)
            self.state.metrics.cut.inc()

    async def _watch(self) -> None:
        while not await self.request.is_disconnected():
            await asyncio.sleep(POLL)
        self.ticket.pieces.put_nowait(Left())

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompts and of the answers."""
        total = self.prompt_tokens + self.answer_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.answer_tokens,
            "total_tokens": total,
        }


class Streamed(StreamingResponse):
    """Server-sent events, closed by ``[DONE]``; a failure midway is told as an event."""

    def __init__(self, flow: Flow, events: AsyncIterator[dict[str, Any]]):
        super().__init__(_lines(events), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.flow = flow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends; a client that leaves before the first event leaves nothing behind either."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.flow.close()


async def _lines(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for content in events:
            yield b"data: " + orjson.dumps(content) + b"\n\n"
    except Left:
        return
    except Exception as error:  # the headers are out: all that is left is an event
        if not isinstance(error, Broken | errors.Refused | Problem):
            LOG.exception("a stream failed")
        message, status, param, code = errors.of(error)
        yield b"data: " + orjson.dumps(errors.body(message, status, param, code)) + b"\n\n"
    yield DONE
