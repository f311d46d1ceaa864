"""Prompts in, completions with log-probabilities out: batched decoding on the model that is being trained."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from didact.errors import UsageProblem
from didact.model.model import Model
from didact.model.prepack import prepacked
from didact.rollout.decoder import Completion, Decoder
from didact.rollout.document import DocumentCache, mark
from didact.rollout.settings import Sampling
from didact.rollout.text import Decode


class Sampler:
    """Decodes up to ``slots`` completions at once; a finished one gives its place to the next waiting prompt.

    Each completion's random numbers depend on its own seed alone, never on what is decoded beside it.
    """

    def __init__(self, model: Model, decode: Decode, stops: Sequence[int], slots: int = 16, longest: int | None = None):
        self.model, self.decode, self.stops, self.slots = model, decode, frozenset(stops), slots
        self.longest = longest or getattr(model.net.config, "max_position_embeddings", 1 << 30)
        self.device = next(model.parameters()).device

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        openings: Sequence[int] | None = None,
        documents: Sequence[DocumentCache | None] | None = None,
    ) -> list[Completion]:
        """All completions, in the order of their prompts."""
        done = {out.prompt: out for out in self.stream(prompts, sampling, openings, documents) if out.reason}
        return [done[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        openings: Sequence[int] | None = None,
        documents: Sequence[DocumentCache | None] | None = None,
    ) -> Iterator[Completion]:
        """Yields each completion after each of its tokens; the last time with its ``reason``.

        ``sampling`` is one for all, whose seed then goes up by one a prompt, or one a prompt. ``openings`` are the
        numbers of tokens before the first answer of each prompt, by default all of it: what a model trained with
        ``prefix`` reads in both directions. ``documents`` were read before and stand before their prompts, which go on
        from them. Raises UsageProblem for a model that cannot write, for a prompt that is empty or leaves no room in
        the model's context, and for a document that another model has read.
        """
        if prompts:
            self.model.check_writes()
        each = self._each(sampling, len(prompts))
        ends = openings or [len(prompt) for prompt in prompts]
        before = self._checked(documents or [None] * len(prompts))
        decoder = Decoder(self.model, self.decode, self.stops, self.longest)
        waiting = deque(map(decoder.row, range(len(prompts)), prompts, each, ends, before))
        training = self.model.training
        self.model.eval()
        try:
            with prepacked(self.model.net):
                while waiting or decoder.rows:
                    if fresh := [waiting.popleft() for _ in range(min(self.slots - len(decoder.rows), len(waiting)))]:
                        yield from decoder.admit(fresh)
                    if decoder.rows:
                        yield from decoder.step()
        finally:
            self.model.train(training)

    def _each(self, sampling: Sampling | Sequence[Sampling], count: int) -> Sequence[Sampling]:
        if isinstance(sampling, Sampling):
            return [sampling.model_copy(update={"seed": sampling.seed + i}) for i in range(count)]
        return sampling

    def _checked(self, documents: Sequence[DocumentCache | None]) -> Sequence[DocumentCache | None]:
        given = [document for document in documents if document is not None]
        if given and self.model.bidirectional_prompt:
            raise UsageProblem(
                "this model reads its prompts in both directions, so no document can be read ahead of them",
                remedy="give the document as part of the prompt",
            )
        if given and {document.reader for document in given} != {mark(self.model)}:
            raise UsageProblem("a document was read by another model than this", remedy="read it again with this one")
        return documents
