"""One thread that computes for all who ask: prompts join while others run, in turns where there are several models."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from didact.rollout.decoder import Steer
from didact.rollout.settings import Sampling
from didact.serve.lane import Lane

if TYPE_CHECKING:
    from didact.serve.steer import Grammar

PREFILL = 2048  # tokens of prompts let in at once, more only for one prompt alone
LOG = logging.getLogger("didact.serve")


class Full(Exception):
    """The queue is full; ``seconds`` is when to try again."""

    def __init__(self, seconds: int):
        super().__init__(f"the server is busy, try again in {seconds} s")
        self.seconds = seconds


class Broken(Exception):
    """The engine has failed, or is being stopped: what was asked will not be answered."""

    def __init__(self, stopped: bool = False):
        super().__init__("the server is being stopped" if stopped else "the model failed; see the server's log")
        self.stopped = stopped


class Left(Exception):
    """The client is gone."""


@dataclass(frozen=True)
class Ask:
    """One completion to be: prompt ids, how to sample, what ``Row`` takes besides, and the grammar in ``steer``."""

    prompt: Sequence[int]
    sampling: Sampling
    opening: int | None = None
    steer: Steer | None = None
    best: int = 0
    grammar: "Grammar | None" = None


@dataclass(frozen=True)
class Piece:
    """What one step added to completion ``index``: text, tokens and their log-probabilities; the last has a reason."""

    index: int
    text: str
    tokens: list[int]
    logprobs: list[float]
    likeliest: list[list[tuple[int, float]]]
    reason: str


@dataclass(eq=False)
class Job:
    """A completion on its way through the engine."""

    ask: Ask
    index: int
    ticket: "Ticket"
    said: int = 0
    told: int = 0


@dataclass(eq=False)
class Ticket:
    """A request under way: its pieces, in the order they were made."""

    loop: asyncio.AbstractEventLoop
    lane: Lane
    left: int
    pieces: asyncio.Queue[Piece | Broken | Left] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    asked: float = field(default_factory=time.monotonic)

    async def next(self) -> Piece:
        """The next piece. Raises Broken, and Left where that was put among the pieces."""
        piece = await self.pieces.get()
        if isinstance(piece, Broken | Left):
            raise piece
        return piece

    def put(self, piece: Piece | Broken) -> None:
        """Hands a piece over to the event loop, which may be gone."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class Engine:
    """Admits up to ``slots`` completions at once and lets ``queue`` more wait."""

    def __init__(self, slots: int = 16, queue: int = 64):
        self.slots, self.queue = slots, queue
        self.changed = threading.Condition()
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.broken: Broken | None = None
        self.held = False
        self.pace = 1.0  # seconds that a completion lately took
        self.thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self.thread.start()

    def stop(self) -> None:
        """Ends: whoever still waits is told so."""
        self._fail(Broken(stopped=True))

    def hold(self) -> None:
        """Lets nothing begin until it is released."""
        with self.changed:
            self.held = True

    def release(self) -> None:
        """Begins with what waits by now, by seed, so that who came first changes no number in what is computed."""
        with self.changed:
            self.held = False
            self.waiting = deque(sorted(self.waiting, key=lambda job: job.ask.sampling.seed))
            self.changed.notify_all()

    def submit(self, lane: Lane, asks: Sequence[Ask]) -> Ticket:
        """Takes a request in, from the event loop. Raises Full and Broken."""
        ticket = Ticket(asyncio.get_running_loop(), lane, len(asks))
        with self.changed:
            self._check()
            busy = len(self.waiting) + len(self.running)
            if busy + len(asks) > self.slots + self.queue:
                raise Full(max(1, min(60, round(self.pace * (busy / self.slots)))))
            self.waiting.extend(Job(ask, index, ticket) for index, ask in enumerate(asks))
            self.changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody reads on: its slots are free before the next step."""
        with self.changed:
            ticket.cancelled = True
            self.changed.notify()

    async def call(self, function: Callable[[], Any]) -> Any:
        """What a function returns that uses a model, called between two steps. Raises Full and Broken."""
        future: Future[Any] = Future()
        with self.changed:
            self._check()
            if len(self.calls) >= self.queue:
                raise Full(1)
            self.calls.append((function, future))
            self.changed.notify()
        return await asyncio.wrap_future(future)

    def _check(self) -> None:
        if self.broken:
            raise self.broken

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait():
                    self._drop()
                    self._admit()
                    for lane in {id(job.ticket.lane): job.ticket.lane for job in self.running}.values():
                        self._tell(lane, lane.step())
                    self._serve_call()
        except Exception:
            LOG.exception("the engine failed; restart the server")
            self._fail(Broken())

    def _wait(self) -> bool:
        """Sleeps until there is something to do; whether to go on."""
        with self.changed:
            self.changed.wait_for(lambda: self._fresh() or self.running or self.calls or self.broken)
            return self.broken is None

    def _fresh(self) -> bool:
        return bool(self.waiting) and not self.held

    def _drop(self) -> None:
        """Frees the slots of those that nobody reads any more."""
        with self.changed:
            self.waiting = deque(job for job in self.waiting if not job.ticket.cancelled)
            gone = [job for job in self.running if job.ticket.cancelled]
            self.running = [job for job in self.running if not job.ticket.cancelled]
        for job in gone:
            job.ticket.lane.cancel(job)

    def _admit(self) -> None:
        """Lets prompts in while there are slots, no more tokens at once than ``PREFILL``."""
        fresh: dict[Lane, list[Job]] = {}
        tokens = 0
        with self.changed:
            for job in list(self.waiting) if self._fresh() else ():
                lane, size = job.ticket.lane, len(job.ask.prompt)
                if len(self.running) >= self.slots or (tokens and tokens + size > PREFILL):
                    break
                if lane.free(len(fresh.get(lane, ()))):
                    tokens += size
                    fresh.setdefault(lane, []).append(job)
                    self.running.append(job)
                    self.waiting.remove(job)
        for lane, jobs in fresh.items():
            self._tell(lane, lane.admit(jobs))

    def _tell(self, lane: Lane, jobs: Sequence[Any]) -> None:
        """Sends each job's news on; those that are over leave."""
        for job in jobs:
            out = lane.out(job)
            whole = len(out.text) if out.reason else lane.certain(job)
            new = slice(job.told, len(out.tokens))
            text, job.said, job.told = out.text[job.said : whole], max(whole, job.said), len(out.tokens)
            piece = Piece(job.index, text, out.tokens[new], out.logprobs[new], out.likeliest[new], out.reason)
            if out.reason:
                job.ticket.left -= 1
                self.pace += 0.1 * (time.monotonic() - job.ticket.asked - self.pace)
                with self.changed, contextlib.suppress(ValueError):  # stopped in the meantime
                    self.running.remove(job)
            job.ticket.put(piece)

    def _serve_call(self) -> None:
        with self.changed:
            function, future = self.calls.popleft() if self.calls else (None, None)
        if function is None or future is None or not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:  # the caller's to handle
            future.set_exception(error)

    def _fail(self, why: Broken) -> None:
        with self.changed:
            self.broken = self.broken or why
            tickets = {id(job.ticket): job.ticket for job in (*self.waiting, *self.running)}
            calls, self.calls = list(self.calls), deque()
            self.waiting.clear()
            self.running = []
            self.changed.notify()
        for ticket in tickets.values():
            ticket.put(self.broken)
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(self.broken)
