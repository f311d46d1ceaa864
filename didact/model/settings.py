"""How a recipe says which model to start from and what of it is trainable."""

from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from didact.settings import Settings, count


class Scratch(Settings):
    """A model built from a configuration of transformers instead of loaded.

    ``size`` is the wanted number of parameters, as in ``12M`` (``didact.settings.count`` reads it); ``config``
    overrides single fields of the architecture's configuration class.
    """

    architecture: str = Field(min_length=1)
    size: str = "12M"
    config: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("size", mode="before")
    @classmethod
    def readable(cls, value: Any) -> Any:
        """Accepts a bare number, and says now when ``count`` could not read the size later."""
        text = str(value)
        if count(text) == 0:
            raise ValueError("a model needs parameters")
        return text


class Lora(Settings):
    """Low-rank adaptation, W + (alpha / rank) B A (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""

    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0, description="scale of the update; default 2 * rank")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=(), description="module names; default every linear layer but the head")


class Tune(Settings):
    """What is trainable: ``all``, ``head``, ``{last: n}``, ``{lora: {...}}`` or ``{tokens: [...]}``.

    New tokens alone, or beside ``all``, ``last`` and ``lora``: ``{lora: {...}, tokens: [...]}``. A list of tokens, or a
    mapping of each to a text that says what it means.
    """

    what: Literal["all", "head", "last", "lora", "tokens"] = "all"
    last: int | None = Field(default=None, gt=0)
    lora: Lora | None = None
    tokens: tuple[str, ...] | dict[str, str] = ()

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Accepts ``all``, ``head``, ``lora`` and one-key mappings."""
        if isinstance(value, str):
            value = {"what": value}
        elif isinstance(value, dict) and value and set(value) <= {"last", "lora", "tokens"}:
            value = {"what": next((name for name in value if name != "tokens"), "tokens"), **value}
        if isinstance(value, dict) and value.get("what") == "lora" and value.get("lora") is None:
            value = {**value, "lora": {}}
        return value

    @model_validator(mode="after")
    def complete(self) -> "Tune":
        """Says what is missing when the choice needs a value, and what another choice left behind."""
        if self.what == "last" and self.last is None:
            raise ValueError("tune: last needs the number of layers, as in {last: 4}")
        if self.what == "tokens" and not self.tokens:
            raise ValueError("tune: tokens needs the new tokens, as in {tokens: ['<a>']}")
        given = {"last": self.last is not None, "lora": self.lora is not None}
        given["tokens"] = bool(self.tokens) and self.what == "head"  # its table is trained; theirs is frozen
        stray = [name for name, there in given.items() if there and name != self.what]
        if stray:
            raise ValueError(f"tune: chooses {self.what!r} and also gives {stray[0]!r}; give one of them")
        return self

    @property
    def meanings(self) -> dict[str, str]:
        """What each new token means; where nothing is said of it, its own letters."""
        return self.tokens if isinstance(self.tokens, dict) else {token: token for token in self.tokens}
