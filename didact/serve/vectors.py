"""``/v1/embeddings``: by the served model where it embeds, else by the embedder that stands beside it."""

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import APIRouter

from didact.model.embed import Embedder
from didact.serve.asked import VectorsAsked
from didact.serve.errors import Refused
from didact.serve.state import State


def _chosen(state: State, name: str | None) -> tuple[str, Embedder]:
    """The embedder a request names, or the one beside the models where these do not embed."""
    if state.beside is None or name != state.beside.name:
        served = state.served(name)
        if served.embedder:
            return served.name, served.embedder
        if state.beside is None:
            what = f"the model {served.name!r} was not trained to embed, and no embedder is served"
            raise Refused(what, param="model", code="model_not_supported")
    return state.beside.name, state.beside.embedder()


def _check_dimensions(asked: VectorsAsked, embedder: Embedder) -> None:
    whole = embedder.model.net.config.get_text_config().hidden_size
    known = sorted({*embedder.embedding.get("dimensions", ()), whole})
    if asked.dimensions is not None and asked.dimensions not in known:
        what = f"this model was trained for vectors of {', '.join(map(str, known))} numbers"
        raise Refused(what, param="dimensions")


def _texts(given: Any, embedder: Embedder) -> list[str]:
    if isinstance(given, str):
        return [given]
    rows = [given] if isinstance(given[0], int) else given
    if isinstance(rows[0], str):
        return list(rows)
    size = len(embedder.renderer.tokenizer)
    if any(token >= size for row in rows for token in row):
        raise Refused(f"this model's token ids end at {size - 1}", param="input")
    return [embedder.renderer.decode(row) for row in rows]


def router(state: State) -> APIRouter:
    """The endpoint."""
    routes = APIRouter()

    @routes.post("/v1/embeddings")
    async def embeddings(asked: VectorsAsked) -> dict[str, Any]:
        name, embedder = await asyncio.to_thread(_chosen, state, asked.model)
        _check_dimensions(asked, embedder)

        def made() -> tuple[np.ndarray, int]:
            texts = _texts(asked.input, embedder)
            counted = embedder.renderer.tokenizer(texts, verbose=False)["input_ids"]
            return embedder(texts, asked.role, asked.dimensions).numpy(), sum(map(len, counted))

        vectors, count = await state.engine.call(made)
        base = asked.encoding_format == "base64"
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() if base else row.tolist() for row in vectors]
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": name, "usage": usage}

    return routes
