"""One model in the engine: completions join, take a step together, and leave."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from didact.model.prepack import prepacked
from didact.rollout.decoder import Completion, Decoder, Row
from didact.rollout.diffusion import Draft, Unmasker
from didact.rollout.text import undecided
from didact.run.named import Named
from didact.text.render import Renderer

if TYPE_CHECKING:
    from didact.serve.engine import Job


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
        self.open = ExitStack()
        self.open.enter_context(prepacked(named.model.net))

    def spell(self, token: int) -> str:
        """A token as it is written."""
        return self.renderer.decode([token])

    def free(self, joining: int) -> bool:
        """Whether one more may join besides those that are about to."""
        return True

    def admit(self, jobs: Sequence[Job]) -> list[Job]:
        """Reads the prompts; every job has its first token."""
        for job in jobs:
            row = self.decoder.row(job.index, job.ask.prompt, job.ask.sampling, job.ask.opening)
            row.steer, row.best = job.ask.steer, job.ask.best
            self.rows[job] = row
        self.decoder.admit([self.rows[job] for job in jobs], share=True)
        return list(jobs)

    def step(self) -> list[Job]:
        """One token more for all that are under way; gives those that grew."""
        grown = {id(out) for out in self.decoder.step()} if self.decoder.rows else set()
        return [job for job, row in self.rows.items() if id(row.out) in grown]

    def cancel(self, job: Job) -> None:
        """Frees a job's slot."""
        self.decoder.cancel(self.rows.pop(job))

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
