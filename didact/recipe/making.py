"""The stages that make data, tokenizers and indexes: from files, or with the model so far."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from didact.data.settings import Data, Pairing
from didact.recipe.stage import Stage, misplaced
from didact.retrieve.settings import SUFFIXES, Indexing

Shots = Annotated[int, Field(ge=1)]
Classes = Annotated[int, Field(ge=2)]


class Corpus(Stage):
    """Makes documents and questions of a built-in domain, a share of both held out for evaluation."""

    kind = "corpus"
    domain: str = Field(min_length=1)
    holdout: float = Field(default=0.1, ge=0, lt=1, description="share of documents never trained on")
    only: tuple[str, ...] = Field(default=(), description="parts of the domain, as os.path; split as in the whole")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What there is of each kind, and what is held out of it; of labelled texts one output a task."""
        if self.domain == "labelled":
            return ("kinds", "modules", "scripts", "media", "sentiment")
        names = ("documents", "questions", "pairs", "asked", "preferences")
        return (*names, *(f"{name}.heldout" for name in names)) if self.holdout else names


class Tokenizer(Stage):
    """Trains a tokenizer of ``vocab_size`` entries on the text of ``data``."""

    kind = "tokenizer"
    data: Data
    vocab_size: int = Field(default=8192, ge=257)


class Links(Stage, Pairing):
    """Pairs of segments of documents that point at each other, to be read together."""

    kind = "links"
    data: Data

    @property
    def outputs(self) -> tuple[str, ...]:
        """Pairs, their texts exchanged among them, the documents they are of, and what is held out."""
        return ("pairs", "exchanged", "documents", *(("pairs.heldout", "documents.heldout") if self.holdout else ()))


class Symbols(Stage):
    """Makes prompts for symbol tuning out of classified texts, records of ``text`` and ``label``; a source is a task.

    Leaves ``train``, prompts to fine-tune on, ``plain``, the same under their own labels, and three sets for the
    measure ``choice``, of the same prompts from the tasks of ``heldout``: ``unseen`` under symbols that training never
    uses, ``relevant`` under the labels themselves, ``flipped`` under labels that have changed places. Without
    ``heldout``, a ``share`` of every task's labels is held out in its place.
    """

    kind = "symbols"
    data: Data
    heldout: Data | None = None
    share: float = Field(default=0.3, gt=0, lt=1, description="of a task's labels, held out where no task is")
    examples: int = Field(default=2000, gt=0, description="prompts to train on")
    evaluations: int = Field(default=200, gt=0, description="prompts of each set to measure on")
    shots: tuple[Shots, Shots] = Field(default=(2, 10), description="examples of each class, fewest and most")
    evaluation_shots: Shots = 4
    classes: tuple[Classes, Classes] = Field(default=(2, 4), description="classes of a prompt, fewest and most")
    kinds: tuple[Literal["integers", "letters", "words"], ...] = Field(
        default=("integers", "letters", "words"), min_length=1, description="of symbols"
    )
    longest: int = Field(default=500, gt=0, description="characters of a text; a longer one is cut at a word")
    whole: bool = Field(default=False, description="learn every word of the prompts, as documents, not the last alone")
    instructions: dict[str, str] = Field(default_factory=dict, description="what a source asks, by its path")
    instructed: float = Field(default=0.5, ge=0, le=1, description="share of prompts that say the instruction")

    @model_validator(mode="after")
    def ordered(self) -> "Symbols":
        """Ranges go up, and an instruction belongs to a source."""
        for name in ("shots", "classes"):
            if getattr(self, name)[0] > getattr(self, name)[1]:
                raise misplaced("the fewest come first, as in [2, 10]", name)
        paths = [source.path for data in self.inputs().values() for source in data.sources]
        for path in self.instructions:
            if path not in paths:
                raise misplaced(f"no source is called {path!r}; there are {', '.join(paths)}", "instructions", path)
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """Prompts to train on under two kinds of labels, and prompts to measure on under three."""
        return ("train", "plain", "unseen", "flipped", "relevant")


class Index(Stage, Indexing):
    """An index over documents to search by words and by meaning; ``didact search runs/NAME/index`` asks it.

    Reads text, Markdown, HTML, PDF, DOCX, notebooks, source code, and records of ``text``. Where the run has an index
    already, only what has changed is read again. ``store`` is the URL of a PostgreSQL server to keep it in, with a name
    of its own after ``#`` where that holds several; else it is kept in the run.
    """

    kind = "index"
    also = frozenset(SUFFIXES)
    data: Data
    store: str | None = Field(default=None, pattern="^postgres(ql)?://")

    @model_validator(mode="after")
    def all_of_it(self) -> "Index":
        """An index holds every document once."""
        for number, source in enumerate(self.data.sources):
            if source.sample or source.weight != 1:
                raise misplaced("an index holds every document once; leave sample and weight out", "data", number)
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The folder of the index."""
        return ("index",)


class Raft(Stage):
    """Makes prompts that answer a question out of passages of an index, the right one among others (RAFT).

    Questions are conversations whose ``id`` is that of the document that answers them. Leaves ``train``, and of the
    questions of ``heldout`` the sets ``closed``, without passages, and ``openN``, the right passage among N others.
    """

    kind = "raft"
    also = frozenset({".sqlite", ".url"})
    data: Data
    index: Data
    heldout: Data | None = None
    golden: float = Field(default=0.8, ge=0, le=1, description="share of prompts that show the right passage")
    distractors: int = Field(default=4, ge=0, le=64, description="other passages, the nearest that a search finds")
    found: bool = Field(default=False, description="show what a search finds and nothing else, as at use")
    quote: bool = Field(default=True, description="answers begin with what they stand on, letter by letter")
    refuse: bool = Field(default=False, description="say that the passages do not answer where they do not")
    examples: int = Field(default=2000, gt=0, description="prompts to train on, at most")
    evaluations: int = Field(default=100, gt=0, description="questions of each set to measure on, at most")
    measured: tuple[Annotated[int, Field(ge=0, le=64)], ...] = Field(
        default=(0, 2, 4, 8), description="numbers of distractors to measure with"
    )

    @model_validator(mode="after")
    def one_index(self) -> "Raft":
        """What is shown comes out of one index."""
        if len(self.index.sources) != 1:
            raise misplaced("name one index, such as index/index", "index")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """Prompts to train on, and prompts to measure on for each number of distractors."""
        return ("train", *(("closed", *(f"open{count}" for count in self.measured)) if self.heldout else ()))


class Mine(Stage):
    """Finds hard negatives for pairs with the model so far, as ``NAME/pairs``."""

    kind = "mine"
    data: Data
    negatives: int = Field(default=2, gt=0, description="for each anchor, at most")
    skip_top: int = Field(default=0, ge=0, description="nearest wrong texts that are passed over")
    margin: float = Field(default=0.95, gt=0, description="of the positive's cosine; what is nearer may be right")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Pairs with their negatives."""
        return ("pairs",)


class Answer(Stage):
    """Asks the model the questions of ``data`` behind a prompt and keeps its answers, for a model to do without it.

    The prompt is the ``system`` text and ``shots``, pairs of a question and the answer wanted. The records hold the
    bare questions with these answers; ``before`` is the prompt, which only a teacher reads (``distil``). An answer
    longer than ``max_new_tokens`` is left out.
    """

    kind = "answer"
    incidental = Stage.incidental | {"batch_size"}
    data: Data
    system: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    holdout: float = Field(default=0.2, ge=0, lt=1, description="share of questions kept to measure with")
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy")
    max_new_tokens: int = Field(default=64, gt=0)
    batch_size: int = Field(default=8, gt=0, description="questions answered at once")

    @model_validator(mode="after")
    def prompted(self) -> "Answer":
        """Without a prompt there is nothing to do without."""
        if not self.system and not self.shots:
            raise ValueError("answer needs a prompt: 'system' or 'shots'")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """Questions with answers, and those held out."""
        return ("answers", "answers.heldout") if self.holdout else ("answers",)
