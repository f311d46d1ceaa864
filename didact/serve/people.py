"""What people send and ask about the answers they got: the feedback store over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, HTTPException, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from didact.errors import Problem, ResourceProblem
from didact.feedback.jsonl import Form, lines
from didact.feedback.records import Edit, Exchange, Id, Key, Ranking, Rating, Retraction, Review, Skip, Thumb
from didact.feedback.report import Kept
from didact.feedback.review import enqueue, following, left
from didact.feedback.store import Conflict, Store, Unknown

Judged = Annotated[Thumb | Rating | Ranking | Edit | Skip | Retraction, Field(discriminator="kind")]
Once = Annotated[Key | None, Header(alias="Idempotency-Key", description="Sent again, the same record comes back.")]
Number = Annotated[Id, Path(description="The id of a record.")]
Plain = dict[str, Any]


class Items(BaseModel):
    """What to put into the review queue."""

    model_config = ConfigDict(extra="forbid")
    items: Annotated[list[Review], Field(min_length=1, max_length=1000)]


def router(store: Store) -> APIRouter:
    """The paths under ``/feedback``; what is answered with 200 is on the disk."""
    at, kept = APIRouter(prefix="/feedback", tags=["feedback"]), Kept(store)

    @at.post("/exchanges")
    def exchange(given: Exchange, key: Once = None) -> Plain:
        """Keeps a prompt and the answers that were shown; more than one need the order in which they were."""
        if len(given.candidates) > 1 and not given.shown:
            raise HTTPException(400, "shown: say in which order the candidates were shown")
        with _problems():
            return store.add(given, key).plain()

    @at.post("/judgements")
    def judgement(given: Judged, key: Once = None) -> Plain:
        """Keeps a judgement of an exchange."""
        with _problems():
            return store.add(given, key).plain()

    @at.post("/judgements/{id}/replace")
    def replace(id: Number, given: Judged, key: Once = None) -> Plain:
        """Corrects a judgement, or takes it back with a retraction; the old one stays as it is."""
        with _problems():
            return store.add(given.model_copy(update={"replaces": id}), key).plain()

    @at.get("/review")
    def review(annotator: Annotated[Id, Query(description="Who is to judge.")]) -> Plain:
        """The next item for a person, with its exchange where it has one, and how many are left, with this one.

        Of the answers there is the text alone: who wrote them is not told to those who judge.
        """
        with _problems():
            item = following(store, annotator)
            asked = item.record.exchange if item and isinstance(item.record, Review) else None
            exchange = _nameless(store.get(asked).plain()) if asked else None
            return {"item": item.plain() if item else None, "exchange": exchange, "left": left(store, annotator)}

    @at.post("/review")
    def put(given: Items) -> Plain:
        """Puts prompts or exchanges into the queue; what is there already is not put twice."""
        with _problems():
            return {"items": [kept.plain() for kept in enqueue(store, given.items)]}

    @at.get("/dashboard")
    def dashboard() -> Plain:
        """Volume by day, agreement, biases, win rates with intervals, and each annotator."""
        with _problems():
            return kept.report()

    @at.get("/export", response_class=StreamingResponse)
    def export(format: Form = "records") -> StreamingResponse:
        """The store as JSON lines."""
        found = (orjson.dumps(line) + b"\n" for line in lines(store, format))
        with _problems():
            first = next(found, b"")  # what goes wrong here can still be answered
        return StreamingResponse(chain([first], found), media_type="application/x-ndjson")

    @at.delete("/annotators/{id}")
    def forget(id: Annotated[Id, Path(description="Who is to be forgotten.")]) -> Plain:
        """Removes what a person wrote, and what rests on it."""
        with _problems():
            return {"removed": store.forget(id)}

    return at


def _nameless(exchange: Plain) -> Plain:
    return exchange | {"candidates": [{"text": one["text"]} for one in exchange["candidates"]]}


@contextmanager
def _problems() -> Iterator[None]:
    """What the store refuses, with the status that says whose fault it is."""
    try:
        yield
    except Problem as problem:
        known = ((Unknown, 404), (Conflict, 409), (ResourceProblem, 503), (Problem, 400))
        raise HTTPException(
            next(status for kind, status in known if isinstance(problem, kind)), str(problem)
        ) from problem
