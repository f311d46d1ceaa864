"""How a recipe says how to train. Names are the field's; defaults suit a laptop."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from didact.engine.rules import StopRule
from didact.model.settings import Tune
from didact.settings import Settings

Beta = Annotated[float, Field(strict=True, ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Turn(Settings):
    """When a task of a mixture is trained and how much it counts: phases, shares and ramps are these four numbers.

    A task takes part in the steps of its ``phase`` (shares of the stage), of these in every ``every``-th from the
    ``offset``-th on. ``weight`` multiplies its loss; a pair goes in a straight line from the first to the second over
    the phase. With ``ratio`` the weight is set once, so that in the first step the task's loss counts so many times
    what the others' count together.
    """

    weight: float | tuple[Weight, Weight] = Field(default=1.0)
    ratio: float | None = Field(default=None, gt=0, description="loss over the other tasks' in the first step")
    phase: tuple[Share, Share] = (0.0, 1.0)
    every: int = Field(default=1, gt=0)
    offset: int = Field(default=0, ge=0)

    @field_validator("weight")
    @classmethod
    def counts(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        """A task that never counts is a mistake."""
        if max(value if isinstance(value, tuple) else (value,)) <= 0:
            raise ValueError("a task's weight must be above zero")
        return value

    @model_validator(mode="after")
    def lasts(self) -> "Turn":
        """A phase has a length, and its turn comes."""
        if self.phase[0] >= self.phase[1]:
            raise ValueError(f"the phase must end after it begins, got {list(self.phase)}")
        if self.ratio is not None and self.weight != 1.0:
            raise ValueError("give 'weight' or 'ratio', which sets the weight, not both")
        if self.offset >= self.every:
            raise ValueError(f"offset {self.offset} is never reached; it must be less than every ({self.every})")
        return self

    def at(self, step: int, steps: int) -> float:
        """The weight in a step (from 0) of ``steps``; 0 where it is not this task's turn."""
        begin, end = (round(share * steps) for share in self.phase)
        if not begin <= step < end or (step - begin) % self.every != self.offset:
            return 0.0
        if not isinstance(self.weight, tuple):
            return self.weight
        done = (step - begin) / max(end - begin - 1, 1)
        return self.weight[0] + done * (self.weight[1] - self.weight[0])


class Training(Settings):
    """One run of the training loop.

    Length is the first reached of ``epochs``, ``max_steps`` and ``tokens`` (trained input tokens);
    when none is given it is one epoch. ``batch_size`` counts packed rows of ``context`` tokens in
    one optimizer step over all processes; ``micro_batch_size`` rows go through the model at a time.
    """

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"log_every", "save_every", "keep_checkpoints", "micro_batch_size", "compile", "activation_checkpointing"}
    )
    """Fields that change how the work is done and not what comes of it: no part of a stage's digest."""

    epochs: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    context: int = Field(default=1024, ge=8, description="tokens in a row")
    batch_size: int = Field(default=4, gt=0, description="rows in a step")
    micro_batch_size: int = Field(default=1, gt=0, description="rows in one forward pass of one process")
    stop_when: tuple[StopRule, ...] = Field(
        default=(), description="rules of gauges that end it earlier, as kl > 10, or reward/heldout falls 50 steps"
    )
    pack: bool = True
    overlong: Literal["drop", "window"] = "window"
    shuffle: bool = True

    tune: Tune = Tune()
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=5e-5, gt=0)
    muon_learning_rate: float = Field(default=0.02, gt=0, description="for hidden matrices when optimizer is muon")
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="a layer's learning rate over that of the one above"
    )
    unfreeze: float = Field(default=0.0, ge=0, le=1, description="share of the steps by which all layers have thawed")
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    decay_ratio: float = Field(default=0.2, ge=0, le=1, description="last share of the steps, for wsd")
    min_ratio: float = Field(default=0.0, ge=0, le=1, description="final learning rate over its peak")
    grad_clip: float = Field(default=1.0, ge=0, description="largest gradient norm; 0 leaves it alone")

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    activation_checkpointing: bool = False
    seed: int = Field(default=0, ge=0, description="the recipe's unless given")

    log_every: int = Field(default=1, gt=0)
    save_every: int = Field(default=100, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, gt=0)
