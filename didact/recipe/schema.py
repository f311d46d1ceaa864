"""The stages of a model's life, as frozen typed values; YAML and Python give the same ones.

In YAML a stage is a mapping of one key, its kind: ``pretrain: {data: docs/}``. In Python it is an
instance: ``Pretrain(data="docs/")``. Reading a recipe imports neither torch nor transformers.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from didact.data.settings import Data, Pairing
from didact.engine.settings import Training, Turn
from didact.model.settings import Scratch
from didact.recipe.measured import Expected, MeasureSpec, expectation
from didact.settings import Settings

RESERVED = ("name", "base", "seed", "device", "stages")
"""What an override may start with besides a stage's name."""


def misplaced(what: str, *at: str | int) -> PydanticCustomError:
    """A mistake found while looking at a whole, and where in it the user wrote the part to mend."""
    return PydanticCustomError("recipe", "{what}", {"what": what, "at": list(at)})


def _name(text: str) -> str:
    """Names become folders and ``stage/output`` references, on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) or text.endswith("."):
        raise ValueError(f"a name is up to 64 letters, digits, '.', '_' and '-', got {text[:80]!r}")
    return text


def _objective(text: str) -> str:
    """Ours are plain words; a user's own is an import path."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?", text):
        raise ValueError(f"an objective is a name or an import path such as my_module:MyObjective, got {text[:80]!r}")
    return text


Name = Annotated[str, AfterValidator(_name)]
Ceiling = Annotated[float, Field(strict=True, gt=0)]
Shots = Annotated[int, Field(ge=1)]
Classes = Annotated[int, Field(ge=2)]


class ObjectiveSpec(Settings):
    """Which objective, and its fields; ``causal`` and ``{causal: {...}}`` are accepted in its place.

    ``didact.objective.resolve(name, options)`` makes it an object; reading a recipe does not.
    """

    name: Annotated[str, AfterValidator(_objective)]
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts a name, an import path, and a mapping of one such key to the objective's fields."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            name, options = next(iter(value.items()))
            return {"name": name, "options": {} if options is None else options}
        return value


class TaskSpec(Turn):
    """One part of a mixture: data, objective, when it is trained and how much its loss counts."""

    data: Data
    objective: ObjectiveSpec
    name: Name = Field(default_factory=lambda given: given["objective"].name.rpartition(":")[2])


class Stage(Settings):
    """What every stage has: a name (its kind unless given) and a seed (the recipe's unless given)."""

    kind: ClassVar[str]
    incidental: ClassVar[frozenset[str]] = frozenset({"name"})
    name: Annotated[str, AfterValidator(lambda text: text and _name(text))] = ""
    seed: int = Field(default=0, ge=0, description="the recipe's unless given")

    @model_validator(mode="before")
    @classmethod
    def one_key(cls, value: Any) -> Any:
        """Accepts ``{kind: {...}}``, the form of a recipe, and ``{kind: null}`` for all defaults."""
        if isinstance(value, dict) and list(value) == [cls.kind]:
            return {} if value[cls.kind] is None else value[cls.kind]
        return value

    @property
    def outputs(self) -> tuple[str, ...]:
        """The data a later stage may name as ``stage/output``."""
        return ()

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {}


class Corpus(Stage):
    """Makes documents and questions of a built-in domain, a share of both held out for evaluation."""

    kind = "corpus"
    domain: str = Field(min_length=1)
    holdout: float = Field(default=0.1, ge=0, lt=1, description="share of documents never trained on")
    only: tuple[str, ...] = Field(default=(), description="parts of the domain, as os.path; split as in the whole")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Documents, questions, pairs, and what is held out of each; of labelled texts one output a task."""
        if self.domain == "labelled":
            return ("kinds", "modules", "scripts", "media", "sentiment")
        names = ("documents", "questions", "pairs", "asked")
        return (*names, *(f"{name}.heldout" for name in names)) if self.holdout else names


class Tokenizer(Stage):
    """Trains a tokenizer of ``vocab_size`` entries on the text of ``data``."""

    kind = "tokenizer"
    data: Data
    vocab_size: int = Field(default=8192, ge=257)

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {("data",): self.data}


class Links(Stage, Pairing):
    """Pairs of segments of documents that point at each other, to be read together."""

    kind = "links"
    data: Data

    @property
    def outputs(self) -> tuple[str, ...]:
        """Pairs, the documents they are of, and what is held out of both."""
        return ("pairs", "documents", *(("pairs.heldout", "documents.heldout") if self.holdout else ()))

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {("data",): self.data}


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

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {(at,): data for at, data in (("data", self.data), ("heldout", self.heldout)) if data}


class Taught(Stage):
    """What is learned from what: ``data`` and one ``objective``, or a mixture of ``tasks``."""

    data: Data | None = None
    tasks: tuple[TaskSpec, ...] = ()
    objective: ObjectiveSpec | None = None
    heldout: Data | None = None

    @model_validator(mode="after")
    def one_way(self) -> "Taught":
        """Says when neither or both ways of giving the data are used."""
        if not self.tasks and self.data is None:
            raise ValueError("missing key 'data' (or 'tasks' for a mixture)")
        if self.tasks and (self.data or self.objective):
            raise misplaced("give 'tasks' or 'data' and 'objective', not both", "tasks")
        names = [task.name for task in self.tasks]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise misplaced(f"two tasks are named {name!r}; give one a 'name' of its own", "tasks", i)
        if self.tasks and not any(task.phase[1] == 1 for task in self.tasks):
            raise misplaced("no task's phase lasts to the end of the stage", "tasks")
        return self

    @property
    def task_list(self) -> tuple[TaskSpec, ...]:
        """The mixture; a mixture of one when ``data`` and ``objective`` are given."""
        if self.data is None or self.objective is None:
            return self.tasks
        return (TaskSpec(data=self.data, objective=self.objective),)

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        mixture: dict[tuple[str | int, ...], Data] = {("tasks", i, "data"): t.data for i, t in enumerate(self.tasks)}
        single = {("data",): self.data, ("heldout",): self.heldout}
        return mixture | {at: data for at, data in single.items() if data}


def usual(name: str) -> Any:
    """The objective of a stage that says none, unless it has tasks that each say their own."""
    return Field(default_factory=lambda given: None if given["tasks"] else ObjectiveSpec(name=name))


class Learning(Training, Taught):
    """A stage of gradient descent.

    ``forgetting`` measures general text before and after, as bits per byte: a few thousand tokens of the language
    reference, or all of ``general``.
    """

    incidental = Stage.incidental | Training.incidental
    forgetting: bool = False
    general: Data | None = None

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return super().inputs() | ({("general",): self.general} if self.general else {})


class Pretrain(Learning):
    """Learns from documents: every token is trained, rows are filled to the brim."""

    kind = "pretrain"
    objective: ObjectiveSpec | None = usual("causal")


class Finetune(Learning):
    """Learns from conversations: one epoch unless a length is given, whole examples only.

    The learning rate is 1e-5, or 2e-4 when a LoRA is trained: its B starts at zero and bears a larger step.
    """

    kind = "finetune"
    objective: ObjectiveSpec | None = usual("sft")
    forgetting: bool = True
    overlong: Literal["drop", "window"] = "drop"
    learning_rate: float = Field(default_factory=lambda given: 2e-4 if given["tune"].what == "lora" else 1e-5, gt=0)


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

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {("data",): self.data}


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

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {("data",): self.data}


class Evaluate(Stage):
    """Bits per byte of each set of ``data``, and what the model says to ``samples``.

    ``gate`` holds the highest bits per byte allowed for a set; a breach ends the run with exit code 7.
    """

    kind = "evaluate"
    data: dict[Name, Data] = Field(default_factory=dict)
    against: Literal["base", "none"] = Field(default="base", description="what to compare with")
    samples: tuple[str, ...] = ()
    max_new_tokens: int = Field(default=96, gt=0)
    gate: dict[str, Ceiling] = Field(default_factory=dict, description="highest bits per byte of a set")
    context: int = Field(default=1024, ge=8, description="tokens in a row")
    limit: int | None = Field(default=None, gt=0, description="examples of each set")
    measures: dict[Name, MeasureSpec] = Field(default_factory=dict, description="other numbers to take of the model")

    @model_validator(mode="after")
    def gates_known(self) -> "Evaluate":
        """A gate on a set that is not measured would never close."""
        if not self.data and not self.samples and not self.measures:
            raise ValueError("evaluate needs 'data' or 'measures' to measure, or 'samples' to answer")
        for name in self.gate:
            if name not in self.data:
                known = ", ".join(self.data) or "none"
                raise misplaced(f"the gate {name!r} names no set of 'data'; the sets are: {known}", "gate", name)
        return self

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said."""
        return {("data", name): data for name, data in self.data.items()} | measured(self.measures)


def measured(measures: Mapping[str, MeasureSpec]) -> dict[tuple[str | int, ...], Data]:
    """The data of measures, by where it is said."""
    return {("measures", name, spec.kind, "data"): spec.data for name, spec in measures.items()}


class Compare(Stage):
    """Ways to train, each from the model so far and with each seed, and what is measured of what comes of them.

    ``arms`` are lists of stages by name; an empty one is the model as it is. What is left is the model of the first
    arm's first seed. ``expect`` says what must hold in every seed, as ``words: masked < causal * 1.02``; a breach ends
    the run with exit code 7.
    """

    kind = "compare"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    arms: dict[Name, tuple["ArmStage", ...]] = Field(min_length=1)
    measures: dict[Name, MeasureSpec] = Field(min_length=1)
    expect: tuple[Expected, ...] = ()

    @field_validator("arms")
    @classmethod
    def named(cls, arms: "dict[str, tuple[Stage, ...]]") -> "dict[str, tuple[Stage, ...]]":
        """Names the stages of each arm."""
        return {
            arm: tuple(
                stage.model_copy(update={"name": name})
                for stage, name in zip(stages, stage_names([(s.kind, s.name) for s in stages]), strict=True)
            )
            for arm, stages in arms.items()
        }

    @model_validator(mode="after")
    def expects_known(self) -> "Compare":
        """An expectation of something that is not measured would never fail."""
        if len(set(self.seeds)) < len(self.seeds):
            raise misplaced("a seed is given twice", "seeds")
        for number, text in enumerate(self.expect):
            wanted = expectation(text)
            for what, names, known in (
                ("measure", [wanted.measure], self.measures),
                ("arm", [arm for arm, _ in wanted.terms], self.arms),
            ):
                for name in names:
                    if name not in known:
                        raise misplaced(f"{text!r} names no {what}; there are {', '.join(known)}", "expect", number)
        return self

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said; not what an arm's own stages leave."""
        found = measured(self.measures)
        for arm, stages in self.arms.items():
            for number, stage in enumerate(stages):
                left = {f"{before.name}/{output}" for before in stages[:number] for output in before.outputs}
                for at, data in stage.inputs().items():
                    kept = tuple(source for source in data.sources if source.path not in left)
                    if kept:
                        found["arms", arm, number, stage.kind, *at] = Data(sources=kept)
        return found


KINDS: dict[str, type[Stage]] = {
    cls.kind: cls for cls in (Corpus, Tokenizer, Links, Symbols, Mine, Pretrain, Finetune, Answer, Evaluate, Compare)
}


def _kind(value: Any) -> str | None:
    if isinstance(value, Stage):
        return value.kind
    return str(next(iter(value))) if isinstance(value, dict) and len(value) == 1 else None


Plain = (
    Annotated[Corpus, Tag("corpus")]
    | Annotated[Tokenizer, Tag("tokenizer")]
    | Annotated[Links, Tag("links")]
    | Annotated[Symbols, Tag("symbols")]
    | Annotated[Mine, Tag("mine")]
    | Annotated[Pretrain, Tag("pretrain")]
    | Annotated[Finetune, Tag("finetune")]
    | Annotated[Answer, Tag("answer")]
    | Annotated[Evaluate, Tag("evaluate")]
)
ArmStage = Annotated[Plain, Discriminator(_kind)]
AnyStage = Annotated[Plain | Annotated[Compare, Tag("compare")], Discriminator(_kind)]
Compare.model_rebuild()
Base = Annotated[
    Annotated[str, Field(min_length=1), Tag("text")] | Annotated[Scratch, Tag("scratch")],
    Discriminator(lambda value: "scratch" if isinstance(value, dict | Scratch) else "text"),
]


def stage_names(given: Sequence[tuple[str, str]]) -> list[str]:
    """Names for stages of which each (kind, name) is known; an empty name becomes ``pretrain``, ``pretrain-2``, ..."""
    taken = {name for _, name in given if name}
    names = []
    for kind, name in given:
        tries = (kind if n == 1 else f"{kind}-{n}" for n in range(1, len(given) + len(taken) + 2))
        names.append(name or next(t for t in tries if t not in taken))
        taken.add(names[-1])
    return names


class Recipe(Settings):
    """One life of a model: what it starts from and its stages, in order."""

    name: Name
    base: Base
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    stages: tuple[AnyStage, ...] = Field(min_length=1)

    @field_validator("stages")
    @classmethod
    def settled(cls, stages: tuple[Stage, ...], info: ValidationInfo) -> tuple[Stage, ...]:
        """Names every stage, hands down the seed, and checks what stages say of each other."""
        names = stage_names([(stage.kind, stage.name) for stage in stages])
        for i, (stage, name) in enumerate(zip(stages, names, strict=True)):
            if name.casefold() in {other.casefold() for other in names[:i]}:
                raise misplaced(f"two stages are named {name!r}; each needs a name of its own", i, stage.kind, "name")
            if name in RESERVED:
                raise misplaced(f"a stage may not be named {name!r}, a key of the recipe", i, stage.kind, "name")
        seed = info.data.get("seed", 0)
        settled = tuple(
            stage.model_copy(update={"name": name, "seed": stage.seed if "seed" in stage.model_fields_set else seed})
            for stage, name in zip(stages, names, strict=True)
        )
        for i, stage in enumerate(settled):
            for at, path in [(at, source.path) for at, data in stage.inputs().items() for source in data.sources]:
                _check_reference(path, settled, i, at)
        return settled


def _check_reference(path: str, stages: Sequence[Stage], i: int, key: tuple[str | int, ...]) -> None:
    """``stage/output`` in stage ``i`` must name an earlier stage and something that it leaves."""
    head, slash, output = path.partition("/")
    at = (i, stages[i].kind, *key)
    for j, stage in enumerate(stages):
        if slash and stage.name == head:
            if j >= i:
                raise misplaced(f"{path!r} is left by a stage that has not run yet; move {head!r} before it", *at)
            if output not in stage.outputs:
                left = ", ".join(f"{head}/{name}" for name in stage.outputs) or f"no data; for a folder write ./{path}"
                raise misplaced(f"{path!r} is nothing that stage {head!r} leaves; it leaves {left}", *at)


def stage_digest(stage: Stage) -> str:
    """SHA-256 of all that decides a stage's outcome: its kind and fields, but the name and the incidental ones."""
    fields = stage.model_dump(mode="json", exclude=set(stage.incidental))
    text = json.dumps({stage.kind: fields}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
