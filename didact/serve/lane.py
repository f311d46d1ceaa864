"""One model in the engine: completions join, take a step together, and leave."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from didact.model.prepack import prepacked
from didact.rollout.decoder import Completion, Decoder, Row
from didact.rollout.diffusion import Draft, Unmasker
from didact.rollout.document import DocumentCache
from didact.rollout.text import undecided
from didact.run.named import Named
from didact.text.render import Renderer

if TYPE_CHECKING:
    from didact.serve.engine import Job


CHUNK = 512  # tokens of a long prompt that are read between two steps of those who write


@dataclass
class _Reading:
    """A long prompt on its way into the model, and all who asked for it."""

    jobs: list[Job]
    prompt: Sequence[int]
    read: DocumentCache | None = None

    @property
    def rest(self) -> Sequence[int]:
        """What is still to be read."""
        return self.prompt[len(self.read.tokens) if self.read else 0 :]


class Lane:
    """Writes left to right, any number at once."""

    def __init__(self, named: Named, longest: int | None = None):
        named.model.check_writes()
        named.model.eval()
        self.named = named
        self.renderer = Renderer(copy.deepcopy(named.renderer.tokenizer))  # of the engine's thread alone
        self.decode = partial(self.renderer.decode, skip_special=True)
        self.decoder = Decoder(named.model, self.decode, named.renderer.stops)
        self.decoder.longest = self.longest = min(self.decoder.longest, longest or self.decoder.longest)
        self.rows: dict[Job, Row] = {}
        self.reading: list[_Reading] = []
        self.open = ExitStack()
        self.open.enter_context(prepacked(named.model.net))
        weakref.finalize(self, self.open.close)

    def close(self) -> None:
        """Leaves the model as others find it; the engine has ended."""
        self.open.close()

    @contextmanager
    def plain(self) -> Iterator[None]:
        """The model as others find it, to be copied; by the engine's thread alone."""
        self.open.close()
        try:
            yield
        finally:
            self.open.enter_context(prepacked(self.named.model.net))

    def spell(self, token: int) -> str:
        """A token as it is written."""
        return self.renderer.decode([token])

    def free(self, joining: int) -> bool:
        """Whether one more may join besides those that are about to."""
        return True

    def admit(self, jobs: Sequence[Job]) -> list[Job]:
        """Reads the prompts, of long ones nothing yet; gives the jobs that have their first token."""
        short = [job for job in jobs if self.named.model.bidirectional_prompt or len(job.ask.prompt) <= CHUNK]
        for job in jobs:
            if job not in short:
                self._read_later(job)
        return self._begin(short, None)

    def _read_later(self, job: Job) -> None:
        same = next((one for one in self.reading if one.prompt == job.ask.prompt and not one.read), None)
        if same:
            same.jobs.append(job)
        else:
            self.reading.append(_Reading([job], job.ask.prompt))

    def _begin(self, jobs: Sequence[Job], read: DocumentCache | None) -> list[Job]:
        """Reads the prompts, or what of them is not ``read`` yet, and gives each job its first token."""
        done = len(read.tokens) if read else 0
        for job in jobs:
            row = self.decoder.row(job.index, job.ask.prompt[done:], job.ask.sampling, job.ask.opening, read)
            row.steer, row.best = job.ask.steer, job.ask.best
            self.rows[job] = row
        if jobs:
            self.decoder.admit([self.rows[job] for job in jobs], share=True)
        return list(jobs)

    def step(self) -> list[Job]:
        """One token more for all that are under way, and a piece of a long prompt; gives those that grew."""
        grown = {id(out) for out in self.decoder.step()} if self.decoder.rows else set()
        return [job for job, row in self.rows.items() if id(row.out) in grown] + self._read_on()

    def _read_on(self) -> list[Job]:
        """Reads a piece of the first long prompt; gives its jobs once they have their first token."""
        if not self.reading:
            return []
        one, model = self.reading[0], self.named.model
        piece = one.rest[:CHUNK]
        if len(piece) < len(one.rest):
            one.read = one.read.onward(model, piece) if one.read else DocumentCache.of(model, piece, False)
            return []
        return self._begin(self.reading.pop(0).jobs, one.read)

    def cancel(self, job: Job) -> None:
        """Frees a job's slot."""
        if job in self.rows:
            self.decoder.cancel(self.rows.pop(job))
            return
        for one in self.reading:
            one.jobs = [other for other in one.jobs if other is not job]
        self.reading = [one for one in self.reading if one.jobs]

    def out(self, job: Job) -> Completion:
        """What a job has so far; it is forgotten once it is over."""
        return self.rows.pop(job).out if self.rows[job].out.reason else self.rows[job].out

    def certain(self, job: Job) -> int:
        """How many characters of a job's text will not change: all of them."""
        return len(self.rows[job].out.text)


@dataclass
class _Draft:
    job: Job
    passes: Iterator[Draft]
    out: Draft


class Canvas(Lane):
    """Writes by unmasking, one answer after the other."""

    def __init__(self, named: Named, longest: int | None = None):
        super().__init__(named, longest)
        self.unmasker = Unmasker(named.model, self.decode, named.renderer.stops, self.longest)
        self.draft: _Draft | None = None

    def free(self, joining: int) -> bool:
        """Only if nothing is being written."""
        return self.draft is None and not joining

    def admit(self, jobs: Sequence[Job]) -> list[Job]:
        """Begins with the first pass."""
        (job,) = jobs
        passes = self.unmasker.stream([job.ask.prompt], [job.ask.sampling])
        self.draft = _Draft(job, passes, next(passes))
        return [job]

    def step(self) -> list[Job]:
        """One more pass."""
        if self.draft is None:
            return []
        self.draft.out = next(self.draft.passes)
        return [self.draft.job]

    def cancel(self, job: Job) -> None:
        """Leaves the answer as it is."""
        self.draft = None

    def out(self, job: Job) -> Completion:
        """The answer so far."""
        assert self.draft
        out = self.draft.out
        if out.reason:
            self.draft = None
        return out

    def certain(self, job: Job) -> int:
        """What may become a stop string waits for its rest."""
        assert self.draft
        text = self.draft.out.text
        return len(text) - undecided(text, job.ask.sampling.stop)


def lane(named: Named, longest: int | None = None) -> Lane:
    """The lane of a model, as it was trained to write."""
    return Canvas(named, longest) if "text_diffusion" in named.model.served else Lane(named, longest)
