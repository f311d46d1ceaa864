"""What an objective is: an equation whose fields are its configuration.

An objective never reduces, and never touches the optimizer, the processes or the data. ``prepare`` sees the whole
step without gradients and holds all randomness; ``loss`` is pure. The engine owns the mean: a term's loss is summed
with its weights and divided by the sum of the weights of the whole step, over all micro-batches and processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from didact.batch import Batch
from didact.rng import Rng
from didact.vocabulary import NONE, Vocabulary


class LanguageModel(Protocol):
    """What an objective may ask of a model."""

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states, [B, T, D]."""
        ...

    def logprob(
        self,
        hidden: Tensor,
        target: Tensor,
        where: Tensor,
        *,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
        never: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probability of ``target`` where ``where`` is not zero, 0 elsewhere; fp32 [B, T]; ``never`` has none.

        ``(1 - smoothing) log p(target) + smoothing mean_v log p(v) - z_loss log^2 Z`` where these are given.
        """
        ...

    def closeness(
        self, hidden: Tensor, target: Tensor, log_p: Tensor, where: Tensor, *, temperature: float = 1.0
    ) -> Tensor:
        """-KL of a teacher from the model where ``where`` is not zero, 0 elsewhere; fp32 [B, T].

        The teacher is its likeliest tokens ``target`` [B, T, K] and their log-probabilities ``log_p`` [B, T, K].
        """
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, [processes * N, ...], this one's first; gradients flow back to their owners."""
        ...

    def head(self, name: str, hidden: Tensor) -> Tensor:
        """What the objective's own head ``name`` makes of hidden states [..., D]: fp32 [..., outputs]."""
        ...

    def value(self, batch: Batch, hidden: Tensor) -> Tensor:
        """What is expected at each token, fp32 [B, T]; ``hidden`` is what the network made of the batch."""
        ...


@dataclass(frozen=True)
class Teacher:
    """A model whose ``top`` likeliest tokens at ``temperature`` an objective wants as columns of its data.

    ``top`` 0 is a reference: of no tokens but those that are there, what it finds them (``reference``).

    ``name`` is a checkpoint as a person names it, or ``self``: the model that the stage starts from.
    """

    name: str
    top: int
    temperature: float


@dataclass(frozen=True)
class Head:
    """A linear head with so many ``outputs``: of hidden states, or of ``inputs`` numbers.

    Its weights begin at zero, or where ``drawn`` as N(0, 1/sqrt(inputs + 1)) (Stiennon et al. 2020, arXiv:2009.01325);
    its bias always does.
    """

    outputs: int
    inputs: int | None = None
    drawn: bool = False


@dataclass(frozen=True)
class Objective:
    """The base of every objective.

    ``needs_mask``: the tokenizer must have a mask token; one is added where it has none. ``heads``: linear heads of its
    own, by name, with their number of outputs or as a ``Head``; they are saved beside the model. ``generates``: what it
    trains can write left to right, so the sampler's log-probabilities must be those of the training path. ``several``:
    an item is an example of several texts, a row of its own. ``joined``: these are read as one, so they share the
    context. ``judged``: an item is a prompt with answers and what they were found worth; ``compares``: these
    are held against each other; ``mismatched``: the last of them is to another prompt, and not judged. ``gauges``:
    terms that are measured and not minimised; ``loss`` returns them too, and their weights say what they are the mean
    of. ``acts``: the answers are the model's own, drawn while it is trained.
    """

    needs_mask: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    several: ClassVar[bool] = False
    joined: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    acts: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    mismatched: ClassVar[bool] = False
    gauges: ClassVar[frozenset[str]] = frozenset()
    heads: ClassVar[Mapping[str, int | Head]] = {}

    vocabulary: Vocabulary = field(
        default=NONE, kw_only=True, repr=False, compare=False, metadata={"bound": "by the stage, not by a recipe"}
    )

    def bind(self, vocabulary: Vocabulary) -> Self:
        """The same objective, told of the tokens it is to learn."""
        return replace(self, vocabulary=vocabulary)

    def told(self, served: Mapping[str, Any]) -> Self:
        """The same objective, told how the model it starts from is read (what ``served`` left there)."""
        return self

    def served(self) -> dict[str, Any]:
        """How a model trained so is to be read, written into its ``config.json`` (under ``didact``).

        ``bidirectional_prompt``: true says that the opening of a document, up to its first trained token, is read in
        both directions. ``text_diffusion``: it writes by unmasking; see ``Diffusion``. ``embedding``: how a text
        becomes a vector (``pool``, ``bidirectional``, ``prompts`` by role). ``writes`` comes of ``generates``: false
        where no objective of the stage teaches a model to write.
        """
        return {}

    def taught_by(self) -> Teacher | None:
        """Whose columns ``teacher_token`` and ``teacher_logprob`` the batch must have; none unless said."""
        return None

    def counted(self, liked: int, others: int) -> tuple[Self, str]:
        """The same objective, told how many answers of its data have a score above 0, and what is to be said of it."""
        return self, ""

    def filled(self) -> int:
        """Documents and answers go on with their last token to a multiple of so many."""
        return 1

    def prepare(self, model: LanguageModel, batch: Batch, rng: Rng) -> Batch:
        """Adds what ``loss`` needs, above all ``batch.weight``, one tensor a term."""
        raise TypeError(f"{type(self).__name__} does not say how to prepare a batch")

    def loss(self, model: LanguageModel, batch: Batch) -> Mapping[str, Tensor]:
        """One loss a term, unreduced, shaped like ``batch.weight[term]``."""
        raise TypeError(f"{type(self).__name__} does not say what its loss is")

    def split(self, batch: Batch, rows: int) -> list[Batch]:
        """Cuts a step into micro-batches of at most ``rows`` rows."""
        return [batch.rows(slice(start, start + rows)) for start in range(0, batch.size, rows)]
