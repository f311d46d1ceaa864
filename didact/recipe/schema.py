"""A life as frozen typed values; YAML and Python give the same ones.

In YAML a stage is a mapping of one key, its kind: ``pretrain: {data: docs/}``. In Python it is an
instance: ``Pretrain(data="docs/")``. Reading a recipe imports neither torch nor transformers.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from didact.data.settings import Data
from didact.model.settings import Scratch
from didact.recipe.aligning import Align
from didact.recipe.crowding import Crowd
from didact.recipe.judging import Evaluate, measured
from didact.recipe.learning import Finetune, Pretrain
from didact.recipe.making import Answer, Corpus, Index, Links, Mine, Raft, Symbols, Tokenizer
from didact.recipe.measured import Expected, MeasureSpec, expectation
from didact.recipe.reinforcing import Reinforce
from didact.recipe.rewarding import RewardModel
from didact.recipe.stage import Name, Stage, misplaced, stage_names
from didact.settings import Settings

RESERVED = ("name", "base", "seed", "device", "stages")
"""What an override may start with besides a stage's name."""


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
    cls.kind: cls
    for cls in (
        Corpus,
        Tokenizer,
        Links,
        Symbols,
        Index,
        Raft,
        Mine,
        Pretrain,
        Finetune,
        RewardModel,
        Align,
        Reinforce,
        Answer,
        Crowd,
        Evaluate,
        Compare,
    )
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
    | Annotated[Index, Tag("index")]
    | Annotated[Raft, Tag("raft")]
    | Annotated[Mine, Tag("mine")]
    | Annotated[Pretrain, Tag("pretrain")]
    | Annotated[Finetune, Tag("finetune")]
    | Annotated[RewardModel, Tag("reward")]
    | Annotated[Align, Tag("align")]
    | Annotated[Reinforce, Tag("reinforce")]
    | Annotated[Answer, Tag("answer")]
    | Annotated[Crowd, Tag("crowd")]
    | Annotated[Evaluate, Tag("evaluate")]
)
ArmStage = Annotated[Plain, Discriminator(_kind)]
AnyStage = Annotated[Plain | Annotated[Compare, Tag("compare")], Discriminator(_kind)]
Compare.model_rebuild()
Base = Annotated[
    Annotated[str, Field(min_length=1), Tag("text")] | Annotated[Scratch, Tag("scratch")],
    Discriminator(lambda value: "scratch" if isinstance(value, dict | Scratch) else "text"),
]


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
