"""A stream whose data the model makes: prompts -> answers -> rewards -> columns, a phase at a time.

A cursor counts the global batches. Every phase takes the next prompts, lets the model of that moment answer, scores
the answers and hands them out in batches. A finished phase is on the disk before its first step; one that was not
finished is drawn again from the same seeds with the same weights. So a killed run goes on as if it had not been.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from didact.batch import Batch
from didact.data.stack import stacked
from didact.engine.mesh import Mesh
from didact.engine.stop import held
from didact.errors import UsageProblem
from didact.model.model import Model
from didact.objective.policy import Policy
from didact.rng import mix
from didact.rollout.answering import answers
from didact.rollout.cast import Cast, read, values
from didact.rollout.decoder import Completion
from didact.rollout.environment import Environment, Episode, play
from didact.rollout.phase import Phase, forget, keep, kept, needed
from didact.rollout.prompts import Prompt
from didact.rollout.push import Push
from didact.rollout.refill import filled
from didact.rollout.remote import Engine
from didact.rollout.reward.base import Answered
from didact.rollout.rows import distinct, row, trimmed
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Rollout, Sampling
from didact.rollout.worth import judged, of_all, tells, worth
from didact.text.render import Renderer

Drawn = tuple[dict[str, Any], list[dict[str, Any]]]  # a row's columns, and lines to be read by people
CHECKED = 2  # prompts of a process's share in each phase whose answers are read again, to compare log-probabilities
EXACT, ROUGH = 1e-3, 0.1  # as far as they may be apart: in fp32 at most, else on average


@dataclass(frozen=True)
class Setting:
    """What the answers are for: a run's settings."""

    batch_size: int
    micro_rows: int
    context: int
    seed: int
    folder: Path
    task: str
    rollout: Rollout


Said = Sequence[Sequence[Completion | Episode]]  # answers to each prompt
Rewards = Callable[[Sequence[Answered]], tuple[list[float], dict[str, list[float]]]]


class Experience:
    """Batches of prompts with the model's own answers and what they were worth.

    ``rewards`` say of each answer what it is worth in all, and by name what each source says of it.
    """

    def __init__(
        self,
        objective: Policy,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        cast: Cast,
        renderer: Renderer,
        setting: Setting,
        mesh: Mesh,
        say: Callable[[str], None],
        environment: Environment | None = None,
    ):
        self.environment = environment
        self.objective, self.prompts, self.rewards, self.cast = objective, prompts, rewards, cast
        self.renderer, self.setting, self.mesh, self.say = renderer, setting, mesh, say
        self.size = setting.rollout.prompts or setting.batch_size
        if self.size % setting.batch_size:
            what = f"a phase of {self.size} prompts cannot be shared by steps of {setting.batch_size}"
            raise UsageProblem(what, where="rollout.prompts", remedy=f"make it a multiple of {setting.batch_size}")
        self.batches = self.size * setting.rollout.epochs // setting.batch_size  # of a phase
        self.folder = setting.folder / "rollouts"
        far = setting.rollout.url
        self.engine = Engine(setting.rollout, renderer.decode, renderer.stops, setting.context) if far else None
        self.push = Push(setting.rollout, setting.folder, renderer) if setting.rollout.push else None
        self.order = lru_cache(maxsize=2)(self._order)

    def start(self, cursor: int) -> Iterator[tuple[Batch, int]]:
        """See ``Stream``."""
        while True:
            number, place = divmod(cursor, self.batches)
            phase = self.phase(number)
            for cut in range(place, self.batches):
                mine = self._cut(number, cut)[self.mesh.rank :: self.mesh.size]
                cursor += 1
                yield trimmed(phase.rows.rows(torch.tensor(mine))), cursor

    def like(self) -> Batch:
        """A row as large as they come, of columns as they come."""
        longest = max((one.tokens for one in self.prompts), key=len)
        size, group = self.setting.rollout.max_new_tokens, self.setting.rollout.group
        size = max(size, self.setting.context - len(longest)) if self.environment else size
        one: dict[str, Any] = row(longest, [Completion(0, [0] * size, [0.0] * size)] * group)
        columns = ["reference", "advantage", *(("value_old", "return") if self.objective.critic else ())]
        one |= {name: np.zeros_like(one["behaviour"]) for name in columns}
        measured = ["no_signal", "reward"] if self.objective.max_num_gen_batches > 1 else []
        measured += ["explained_variance"] if self.objective.critic else []
        sources = (f"reward/{name}" for name in self.objective.sources)
        one |= {name: np.zeros(group, np.float32) for name in ("score", "mismatch", "distinct", *sources, *measured)}
        return stacked([one | {"beta": np.float32(0), "row": np.int64(0)}])

    def phase(self, number: int) -> Phase:
        """A phase, from the disk or from the model."""
        found = kept(self.folder, number, self.say) if self.mesh.main else None
        found = self.mesh.shared(found)[0]
        if found is not None:
            return found
        beta, first = self._begins(number)
        actor = self.cast.actor()
        if self.push and self.mesh.main:
            self.push(actor, self.cast.adapts, number)
        self.mesh.barrier()
        draw, rounds = partial(self._groups, actor), self.objective.max_num_gen_batches
        groups, drawn = filled(draw, lambda one: tells(one[0]), first, self.size, rounds)
        phase = judged(self.objective, [columns for columns, _ in groups], beta, first + len(drawn))
        if rounds > 1:
            phase.rows.update(of_all([columns for columns, _ in drawn], phase.rows))
        if self.mesh.main:
            keep(self.folder, number, phase, [line for _, lines in drawn for line in lines])
            past = needed(self.setting.folder / "checkpoints", self.setting.task) // self.batches
            forget(self.folder, past - 1)  # the phase before says how the next one begins
        self.mesh.barrier()
        return phase

    def _begins(self, number: int) -> tuple[float, int]:
        """The weight of KL in a phase and the prompt it begins with, as the phase before has left them."""
        follows = self.objective.target_kl or self.objective.max_num_gen_batches > 1
        before = kept(self.folder, number - 1, self.say) if number and follows else None
        if before is None:
            return self.objective.beta, number * self.size
        beta = self.objective.adapted(*(before.state[name] for name in ("beta", "kl", "answers")))
        return beta, before.state.get("next", number * self.size)  # which the first phases lack

    def _cut(self, number: int, cut: int) -> list[int]:
        """Which rows of a phase its ``cut``-th batch has; each pass has its own order."""
        epoch, place = divmod(cut * self.setting.batch_size, self.size)
        order = np.random.default_rng([self.setting.seed, number, epoch]).permutation(self.size)
        return order[place : place + self.setting.batch_size].tolist()

    def _asked(self, index: int) -> Prompt:
        """The prompt that is asked as the ``index``-th of the run; every pass over them has its own order."""
        epoch, place = divmod(index, len(self.prompts))
        return self.prompts[self.order(epoch)[place]]

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.setting.seed, epoch]).permutation(len(self.prompts)).tolist()

    # --- what the model says ---------------------------------------------------------------------------------------

    def _groups(self, actor: Model, numbers: range) -> list[Drawn]:
        """The prompts of these numbers with their answers, of which each process draws its share."""
        shares = self.mesh.shared(self._drawn(actor, numbers[self.mesh.rank :: self.mesh.size]))
        return [shares[i % self.mesh.size][i // self.mesh.size] for i in range(len(numbers))]

    def _drawn(self, actor: Model, numbers: range) -> list[Drawn]:
        """This process's share."""
        if not numbers:
            return []
        asked, rows = [self._asked(index) for index in numbers], self.setting.micro_rows
        outs = self._answers(actor, asked, numbers)
        given = self._scores(asked, outs)
        found = [row(one.tokens, each) for one, each in zip(asked, outs, strict=True)]
        batch = stacked(found)
        mismatch = np.float32(self._mismatch(actor, batch))
        columns = {"reference": self._reference(batch)}
        if self.objective.critic:
            columns["value_old"] = values(actor, batch, rows)
        if self.objective.temperature != 1:
            columns["behaviour"] = read(actor, batch, self.objective.temperature, rows)
        drawn = []
        for place, (one, index) in enumerate(zip(found, numbers, strict=True)):
            more: dict[str, Any] = {
                name: column[place, : len(one["token"])].numpy() for name, column in columns.items()
            }
            more |= {name: value[place] for name, value in given.items()}
            each = np.ones(len(outs[place]), np.float32)
            more |= {"mismatch": mismatch * each, "distinct": distinct(outs[place]) * each, "row": np.int64(index)}
            more["score"] = worth(self.objective, given["score"][place], outs[place])
            said = {name: value[place].tolist() for name, value in given.items()}
            drawn.append((one | more, _lines(asked[place], outs[place], said)))
        return drawn

    def _answers(self, actor: Model, asked: Sequence[Prompt], numbers: Sequence[int]) -> Said:
        rollout = self.setting.rollout
        way = Sampling(
            temperature=rollout.temperature, top_p=1, max_new_tokens=rollout.max_new_tokens, stop=rollout.stop
        )
        draw = self.engine.answers if self.engine else partial(answers, self._sampler(actor))

        def seeded(*key: int) -> Sampling:
            return way.model_copy(update={"seed": mix(self.setting.seed, *key)})

        with held() as stop:
            leaving = stop if self.mesh.size == 1 else lambda: False  # several leave together, between two steps
            if self.environment is None:
                ways = [[seeded(number, k) for k in range(rollout.group)] for number in numbers]
                return draw([one.tokens for one in asked], ways, leaving)

            def ask(prompts: Sequence[Sequence[int]], which: Sequence[int], turn: int) -> list[Completion]:
                keys = [divmod(i, rollout.group) for i in which]
                ways = [[seeded(numbers[place], k, turn)] for place, k in keys]
                return [each[0] for each in draw(prompts, ways, leaving)]

            every = [one for one in asked for _ in range(rollout.group)]
            played = play(self.environment, every, ask, self.renderer, rollout.turns, self.setting.context)
            return [played[i : i + rollout.group] for i in range(0, len(played), rollout.group)]

    def _sampler(self, actor: Model) -> Sampler:
        words, slots = self.renderer, self.setting.rollout.slots
        return Sampler(actor, words.decode, words.stops, slots=slots, longest=self.setting.context)

    def _scores(self, asked: Sequence[Prompt], outs: Said) -> dict[str, np.ndarray]:
        """What answers are worth, [prompts, answers]: the ``score``, and each source by its name."""
        done = [
            Answered(one.messages, out.text, one.record, out.reason == "stop", one.where)
            for one, each in zip(asked, outs, strict=True)
            for out in each
        ]
        total, said = self.rewards(done)
        if self.environment:
            found = [out.reward if isinstance(out, Episode) else 0.0 for each in outs for out in each]
            total, said = [a + b for a, b in zip(total, found, strict=True)], said | {"environment": found}
        named = {"score": total} | {f"reward/{name}": values for name, values in said.items()}
        return {name: np.asarray(all_of, np.float32).reshape(len(outs), -1) for name, all_of in named.items()}

    def _mismatch(self, actor: Model, batch: Batch) -> float:
        """Law 5: how far what the sampler said of its tokens is from what training says of them.

        Raises UsageProblem where it is farther than rounding explains, or, of an engine that may hold older weights,
        than those could be.
        """
        part = batch.rows(slice(0, CHECKED))
        apart = (read(actor, part, 1.0, self.setting.micro_rows) - part.behaviour).abs()[part.trained]
        if self.engine:
            self.engine.compare(float(apart.mean()), self.say)
            return float(apart.mean())
        exact = actor.net.dtype == torch.float32
        found, bound = float(apart.max() if exact else apart.mean()), EXACT if exact else ROUGH
        if not found <= bound:
            what = f"the sampler's log-probabilities are {found:.3g} from the training path's, more than {bound:g}"
            raise UsageProblem(what, remedy="train with precision: fp32, or report this as a bug")
        return float(apart.mean())

    def _reference(self, batch: Batch) -> torch.Tensor:
        with self.cast.reference() as model:
            return read(model, batch, self.objective.temperature, self.setting.micro_rows)


def _lines(
    asked: Prompt, outs: Sequence[Completion | Episode], said: Mapping[str, list[float]]
) -> list[dict[str, Any]]:
    """A prompt's answers and their rewards, to be read by people."""
    known = {"where": asked.where, "prompt": asked.messages[-1].get("content")}
    return [
        known | {"answer": out.text, "ended": out.reason} | {name: values[k] for name, values in said.items()}
        for k, out in enumerate(outs)
    ]
