"""``/v1/completions``: any text gone on from, as it is given."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from didact.serve import spell
from didact.serve.asked import TextAsked
from didact.serve.chat import Answer
from didact.serve.engine import Ask
from didact.serve.errors import Refused
from didact.serve.flow import Flow, Left, Streamed
from didact.serve.served import Served
from didact.serve.state import State, drawn

MOST = 32  # completions of one request, over all its prompts
DEFAULT = 16  # tokens, as OpenAI's


class Texts:
    """A request for completions on its way."""

    def __init__(self, served: Served, asked: TextAsked, flow: Flow, echoes: list[str]):
        self.served, self.asked, self.flow, self.echoes = served, asked, flow, echoes
        self.stops = frozenset(() if asked.return_token_ids else served.named.renderer.stops)  # tokens not told
        self.answers = [Answer(strip=False) for _ in flow.asks]
        self.tokens_too = asked.logprobs is not None or bool(asked.return_token_ids)
        about = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.name}
        self.about = {**about, "object": "text_completion"}

    def _choice(self, index: int, text: str, reason: str | None, last: int | None) -> dict[str, Any]:
        probs, answer = None, self.answers[index]
        part = slice(len(answer.tokens) - last, None) if last is not None else slice(None)
        if self.asked.logprobs is not None:
            before = "".join(map(self.served.writes.spell, answer.tokens[: part.start])) if last is not None else ""
            rows = (answer.tokens[part], answer.logprobs[part], answer.likeliest[part])
            probs = spell.text(self.served.writes.spell, *rows, len(self.echoes[index]) + len(before))
        ids = {"token_ids": answer.tokens[part]} if self.asked.return_token_ids else {}
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": probs, **ids}

    async def whole(self) -> Response:
        """The response to a client that waits."""
        try:
            async for piece in self.flow.pieces():
                self.answers[piece.index].add(piece, self.stops)
        except Left:
            return Response(status_code=499)
        choices = [
            self._choice(index, self.echoes[index] + answer.text, answer.reason, None)
            for index, answer in enumerate(self.answers)
        ]
        return JSONResponse({**self.about, "choices": choices, "usage": self.flow.usage()})

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream."""
        for index, echo in enumerate(self.echoes):
            if echo:
                yield {**self.about, "choices": [self._choice(index, echo, None, 0)]}
        async for piece in self.flow.pieces():
            told = self.answers[piece.index].add(piece, self.stops)
            if piece.text or piece.reason or (told and self.tokens_too):
                yield {**self.about, "choices": [self._choice(piece.index, piece.text, piece.reason or None, told)]}
        if self.asked.stream_options and self.asked.stream_options.include_usage:
            yield {**self.about, "choices": [], "usage": self.flow.usage()}


def _prompts(served: Served, asked: TextAsked) -> list[tuple[list[int], str]]:
    """Each prompt's ids, and its text where it is to be echoed."""
    given = asked.prompt
    each: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)
    rows = served.named.model.net.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    made = []
    for prompt in each:
        ids = served.encode(prompt) if isinstance(prompt, str) else prompt
        if any(token >= rows for token in ids):
            raise Refused(f"this model's token ids end at {rows - 1}", param="prompt")
        text = (prompt if isinstance(prompt, str) else served.named.renderer.decode(ids)) if asked.echo else ""
        made.append((ids, text))
    return made


def router(state: State) -> APIRouter:
    """The endpoint."""
    routes = APIRouter()

    @routes.post("/v1/completions")
    async def completions(asked: TextAsked, request: Request) -> Response:
        served, seed = state.served(asked.model), drawn(asked.seed)
        served.writes  # noqa: B018  # refuses a model that only embeds
        count = asked.n or 1
        if (asked.best_of or count) != count:
            raise Refused("best_of is not supported", param="best_of")

        def prepared() -> tuple[list[Ask], list[str]]:
            made = _prompts(served, asked)
            if len(made) * count > MOST:
                raise Refused(f"a request may ask for {MOST} completions", param="prompt")
            bound = asked.max_tokens or DEFAULT
            asks = [
                ask
                for i, (ids, _) in enumerate(made)
                for ask in served.asks(asked, ids, seed + i * count, bound, asked.logprobs or 0)
            ]
            return asks, [text for _, text in made for _ in range(count)]

        asks, echoes = await asyncio.to_thread(prepared)
        texts = Texts(served, asked, Flow(state, served, asks, request), echoes)
        return Streamed(texts.flow, texts.events()) if asked.stream else await texts.whole()

    return routes
