"""A simulated crowd before a server: its members ask and judge over HTTP, as people do through the page.

What it sends again after a kill it sends under the same keys, so nothing is lost and nothing is there twice.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didact.errors import DataProblem, Problem, ResourceProblem
from didact.feedback.crowd import Asked, Member, judges, rounds, shown
from didact.feedback.store import Store
from didact.recipe.crowding import Crowd
from didact.retrieve.index import Index
from didact.serve.asked import ANSWERS
from didact.serve.engine import Engine
from didact.serve.ground import Ground
from didact.serve.here import LOOPBACK, serving
from didact.serve.served import Served
from didact.serve.state import State

AHEAD = 4  # times as many answers are asked for at once as are written at once
PATIENCE = 3600  # seconds that a client waits for its answers
TICK = 0.002  # seconds between two looks at what has arrived
NAME = 300  # characters of a source that a record keeps
Plain = dict[str, Any]


def visit(
    stage: Crowd, served: Served, index: Index | None, store: Path, members: Sequence[Member], asked: Sequence[Asked]
) -> tuple[list[Asked], int]:
    """Serves the model over a store and lets the members come; what was answered, and how many judgements there are.

    Raises DataProblem for what the server refuses, ResourceProblem where it fails.
    """
    engine = Engine(stage.batch_size, AHEAD * stage.batch_size + stage.answers)
    ground = Ground(index) if index else None
    with Store.open(str(store)) as opened, serving(State(engine, {served.name: served}, ground, store=opened)) as port:
        crowd = _Visitors(stage, engine, Client(port), members)
        exchanges, answered = crowd.ask(asked)
        return answered, crowd.judge(exchanges, answered)


class Client:
    """One who asks a server on this machine, over a connection that stays open."""

    def __init__(self, port: int):
        self.port = port
        self.connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE)

    def get(self, path: str) -> bytes:
        """What is there."""
        return self._sent("GET", path, None, {}, path)

    def post(self, path: str, body: Mapping[str, Any], where: str, key: str | None = None) -> Plain:
        """What is answered; ``where`` names it in an error, ``key`` is the one that makes sending again harmless."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return json.loads(self._sent("POST", path, json.dumps(body).encode(), headers, where))

    def _sent(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], where: str) -> bytes:
        try:
            status, found = self._tried(method, path, body, headers)
        except (OSError, http.client.HTTPException):  # a server closes what was silent for long
            self.connection.close()
            try:
                status, found = self._tried(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                what, remedy = f"the crowd's server cannot be asked ({error!r})", "run it again, it goes on from here"
                raise ResourceProblem(what, where=where, remedy=remedy) from error
        if status == http.HTTPStatus.OK:
            return found
        raise _refused(status, found, where)

    def _tried(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.read()


def _refused(status: int, found: bytes, where: str) -> Problem:
    """What the server says it cannot do, as a person who runs a recipe is told."""
    try:
        error = json.loads(found)["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": found[:200].decode(errors="replace")}
    what = f"the crowd's server answers {status}: {error['message']}"
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return ResourceProblem(what, where=where, remedy="see what it says above; run it again, it goes on from here")
    long = error.get("code") == "context_length_exceeded"
    remedy = "lower max_new_tokens, or leave out what is too long" if long else "leave this one out of data"
    return DataProblem(what, where=where, remedy=remedy)


@dataclass
class _Visitors:
    stage: Crowd
    engine: Engine
    client: Client
    members: Sequence[Member]

    # --- asking --------------------------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked]) -> tuple[list[str], list[Asked]]:
        """Asks everything that has no answers yet; the ids of the exchanges, and what was answered."""
        there = self._there()
        wave = max(1, AHEAD * self.stage.batch_size // self.stage.answers)
        exchanges, answered = [], []
        for start in range(0, len(asked), wave):
            part = dict(enumerate(asked[start : start + wave], start))
            new = {} if all(_key(number) in there for number in part) else self._wave(part)
            for number, one in part.items():
                kept = there.get(_key(number)) or self._keep(number, one, new.get(number))
                texts = [candidate["text"] for candidate in kept["candidates"]]
                exchanges.append(kept["id"])
                answered.append(one if one.answers else one.answered(texts))
        return exchanges, answered

    def _there(self) -> dict[str, Plain]:
        """The exchanges of a run that was killed, by their keys."""
        lines = map(json.loads, self.client.get("/feedback/export?format=records").splitlines())
        return {line["key"]: {"id": line["id"], **line["record"]} for line in lines if line["key"]}

    def _wave(self, part: Mapping[int, Asked]) -> dict[int, list[Plain]]:
        """The responses to each question; asked together, so that they are computed in the same batches every time."""
        size = self.stage.answers
        wanted = [
            (number, first, min(ANSWERS, size - first))
            for number, one in part.items()
            if not one.answers
            for first in range(0, size, ANSWERS)
        ]
        if not wanted:
            return {}
        self.engine.hold()
        pool = ThreadPoolExecutor(len(wanted))
        try:
            coming = [pool.submit(self._answers, number, part[number], *which) for number, *which in wanted]
            self._arrived([(each, count) for each, (_, _, count) in zip(coming, wanted, strict=True)])
            self.engine.release()
            found: dict[int, list[Plain]] = {}
            for (number, _, _), each in zip(wanted, coming, strict=True):
                found.setdefault(number, []).append(each.result())
            return found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _arrived(self, coming: Sequence[tuple[Future[Plain], int]]) -> None:
        """Waits until all that was asked is in the queue, but for what is refused."""
        with self.engine.changed:
            while len(self.engine.waiting) < sum(count for each, count in coming if not each.done()):
                self.engine.changed.wait(TICK)

    def _answers(self, number: int, one: Asked, first: int, count: int) -> Plain:
        """Several answers to one question, and how they were asked for, in the words of a record."""
        way = {"temperature": self.stage.temperature, "top_p": 1.0}
        asked = {**way, "seed": one.seed + first, "n": count, "max_tokens": self.stage.max_new_tokens}
        body = {"messages": [turn.model_dump() for turn in one.prompt], **asked}
        said = Client(self.client.port).post("/v1/chat/completions", body, f"question {number + 1}")
        own = said["didact"]
        by = {"model": said["model"], "model_hash": own["model_hash"]}
        sampling = {**way, "max_new_tokens": self.stage.max_new_tokens}
        candidates = [
            {
                "text": choice["message"]["content"],
                "sampling": {**sampling, "seed": own["seed"] + choice["index"]},
                **by,
            }
            for choice in said["choices"]
        ]
        return {"candidates": candidates, "passages": [_passage(each) for each in own.get("sources", ())]}

    def _keep(self, number: int, one: Asked, said: Sequence[Plain] | None) -> Plain:
        """Puts a question and its answers into the store, as the one who asked it saw them."""
        candidates = [each for part in said or () for each in part["candidates"]]
        candidates = candidates or [{"text": text} for text in one.answers]
        passages = said[0]["passages"] if said else []
        seen = shown(
            number, one if one.answers else one.answered([each["text"] for each in candidates]), self.stage.seed
        )
        body = {
            "prompt": [turn.model_dump() for turn in one.prompt],
            "candidates": candidates,
            "passages": passages,
            "shown": seen.record.model_dump()["shown"],
            "annotator": judges(self.members, seen.id, self.stage.each, self.stage.seed)[0].name,
        }
        return self.client.post("/feedback/exchanges", body, f"question {number + 1}", _key(number))

    # --- judging -------------------------------------------------------------------------------------------------

    def judge(self, exchanges: Sequence[str], answered: Sequence[Asked]) -> int:
        """Lets the members judge what was answered; how many judgements that were."""
        count = 0
        stage = self.stage
        each = rounds(self.members, answered, stage.each, stage.judgements, stage.seed)
        for number, (exchange, (_, said)) in enumerate(zip(exchanges, each, strict=True)):
            for one in said:
                body = one.model_copy(update={"exchange": exchange}).model_dump(mode="json", exclude_none=True)
                where = f"{one.annotator} on question {number + 1}"
                self.client.post("/feedback/judgements", body, where, f"{_key(number)}.{one.annotator}.{one.kind}")
            count += len(said)
        return count


def _key(number: int) -> str:
    return f"crowd.{number}"


def _passage(source: Mapping[str, Any]) -> Plain:
    """A source of an answer, as the page puts it into a record."""
    about = {name: str(source[name] or "")[:NAME] for name in ("source", "heading")}
    return {"text": source["text"], "score": source["score"], **about}
