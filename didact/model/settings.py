"""How a recipe says which model to start from and what of it is trainable."""

from typing import Any, Literal

from pydantic import Field, model_validator

from didact.settings import Settings


class Scratch(Settings):
    """A model built from a configuration of transformers instead of loaded.

    ``size`` is the wanted number of parameters, as in ``12M``; ``config`` overrides single fields of
    the architecture's configuration class.
    """

    architecture: str
    size: str = "12M"
    config: dict[str, Any] = Field(default_factory=dict)


class Lora(Settings):
    """Low-rank adaptation, W + (alpha / rank) B A (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""

    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0, description="scale of the update; default 2 * rank")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=(), description="module names; default every linear layer but the head")


class Tune(Settings):
    """What is trainable: ``all``, ``head``, ``{last: n}``, ``{lora: {...}}`` or ``{tokens: [...]}``."""

    what: Literal["all", "head", "last", "lora", "tokens"] = "all"
    last: int | None = Field(default=None, gt=0)
    lora: Lora | None = None
    tokens: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts ``all``, ``head``, ``lora`` and one-key mappings."""
        if value == "lora":
            return {"what": "lora", "lora": {}}
        if isinstance(value, str):
            return {"what": value}
        if isinstance(value, dict) and "what" not in value and len(value) == 1:
            return {"what": next(iter(value)), **{k: {} if v is None else v for k, v in value.items()}}
        return value

    @model_validator(mode="after")
    def complete(self) -> "Tune":
        """Says what is missing when the choice needs a value."""
        if self.what == "last" and self.last is None:
            raise ValueError("tune: last needs the number of layers, as in {last: 4}")
        if self.what == "tokens" and not self.tokens:
            raise ValueError("tune: tokens needs the new tokens, as in {tokens: ['<a>']}")
        return self
