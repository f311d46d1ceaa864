"""The application: OpenAI's paths, health and metrics, and the page."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from didact import __version__
from didact.rollout.settings import Sampling
from didact.serve import chat, errors, people, texts, vectors, weights
from didact.serve.engine import Ask, Broken, Full
from didact.serve.gate import BODY, Gate
from didact.serve.served import Served
from didact.serve.state import State

HEALTHY = 5.0  # seconds for which a token that was made is proof enough
PATIENCE = 30.0  # seconds after which an engine that makes no token is called sick
PAGE = Path(__file__).parent / "page"


def build(state: State) -> ASGIApp:
    """The application over a running engine."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        state.engine.stop()

    app = FastAPI(title="Didact", version=__version__, lifespan=life, docs_url=None, redoc_url=None, max_body_size=BODY)
    errors.install(app)
    for part in (chat, texts, vectors):
        app.include_router(part.router(state))
    if state.store:
        app.include_router(people.router(state.store))
    if state.weights:
        app.include_router(weights.router(state, state.weights))
    _about(app, state)
    _health(app, state)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return Gate(app, state)


def _about(app: FastAPI, state: State) -> None:
    def card(served: Served) -> dict[str, Any]:
        own = {"writes": served.lane is not None, "embeds": served.embedder is not None, "hash": served.hash}
        context = served.lane.longest if served.lane else None
        about = {"id": served.name, "object": "model", "created": served.created, "owned_by": "didact"}
        return {**about, "didact": {**own, "context": context}}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served, and whether there are documents to answer from and a place for feedback."""
        about = {"feedback": state.store is not None, "documents": state.ground is not None}
        return {"object": "list", "data": [card(served) for served in state.models.values()], "didact": about}

    @app.get("/v1/models/{id:path}")
    async def model(id: str) -> dict[str, Any]:
        """One model."""
        return card(state.served(id))

    @app.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(state.metrics.text(state.engine), media_type="text/plain; version=0.0.4; charset=utf-8")


def _health(app: FastAPI, state: State) -> None:
    last, turn = -HEALTHY, asyncio.Lock()

    async def token() -> None:
        """A real token of the first model that writes."""
        served = next((one for one in state.models.values() if one.lane), None)
        if served is None or served.lane is None:
            await state.engine.call(lambda: None)
            return
        ask = Ask(served.named.renderer.beginning("a"), Sampling(temperature=0, max_new_tokens=1))
        ticket = state.engine.submit(served.lane, [ask])
        try:
            while not (await ticket.next()).reason:
                pass
        finally:
            state.engine.cancel(ticket)

    @app.get("/health")
    async def health() -> Response:
        """Whether a token can be made; a full queue is a sign of life."""
        nonlocal last
        async with turn:
            try:
                if state.engine.broken:
                    raise state.engine.broken
                if time.monotonic() - last > HEALTHY:
                    await asyncio.wait_for(token(), PATIENCE)
                    last = time.monotonic()
            except Full:
                pass
            except (Broken, TimeoutError) as error:
                return errors.answer(str(error) or "no token was made in time", 503, code="unhealthy")
        return JSONResponse({"status": "ok"})
