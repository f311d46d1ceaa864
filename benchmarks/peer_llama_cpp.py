"""llama.cpp's side, through its C interface: a sequence a prompt, all of them advanced by one decode a token."""

from __future__ import annotations

import ctypes
import os
from typing import Any, cast

import llama_cpp

from benchmarks.case import Job, Measured
from benchmarks.clock import Clock

ROOM = 256  # positions of a sequence: a prompt of at most 80 tokens and 128 new ones


class Engine:
    """A model, a context for ``slots`` sequences, a batch to fill, and llama.cpp's own greedy sampler."""

    def __init__(self, gguf: str, slots: int, flash: int):
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        self._quiet = quiet  # C keeps no reference to it
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = cast(
            Any, llama_cpp.llama_model_load_from_file(gguf.encode(), llama_cpp.llama_model_default_params())
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = ROOM * slots, slots
        settings.n_batch = settings.n_ubatch = ROOM * slots
        settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
        settings.flash_attn_type = flash
        self.context = cast(Any, llama_cpp.llama_init_from_model(self.model, settings))
        self.batch: Any = llama_cpp.llama_batch_init(ROOM * slots, 0, 1)
        self.greedy = llama_cpp.llama_sampler_init_greedy()

    def add(self, token: int, position: int, sequence: int, wanted: bool) -> None:
        place = self.batch.n_tokens
        self.batch.token[place] = token
        self.batch.pos[place] = position
        self.batch.n_seq_id[place] = 1
        self.batch.seq_id[place][0] = sequence
        self.batch.logits[place] = wanted
        self.batch.n_tokens += 1

    def decode(self) -> list[int]:
        """Runs the batch and gives the likeliest token at each place that wanted logits."""
        if llama_cpp.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        places = [i for i in range(self.batch.n_tokens) if self.batch.logits[i]]
        self.batch.n_tokens = 0
        return [llama_cpp.llama_sampler_sample(self.greedy, self.context, place) for place in places]

    def generate(self, prompts: list[list[int]], wanted: int) -> list[list[int]]:
        memory = cast(Any, llama_cpp.llama_get_memory(self.context))
        llama_cpp.llama_memory_clear(memory, True)
        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                self.add(token, position, sequence, position == len(prompt) - 1)
        answers = [[token] for token in self.decode()]
        for count in range(1, wanted):
            for sequence, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
                self.add(answer[-1], len(prompt) + count - 1, sequence, True)
            for answer, token in zip(answers, self.decode(), strict=True):
                answer.append(token)
        return answers


def generate(job: Job) -> Measured:
    """``options``: ``flash``, one of llama.cpp's -1 (its own choice), 0, 1."""
    engine = Engine(job.inputs.extra["gguf"], max(map(len, job.inputs.steps)), job.options["flash"])
    clock, tokens, generated = Clock(), [], []
    for prompts in job.inputs.steps:
        answers = engine.generate(prompts, job.inputs.extra["new_tokens"])
        clock.lap()
        tokens.append(sum(map(len, answers)))
        generated += answers
    return Measured(clock.laps, tokens, generated=generated)
