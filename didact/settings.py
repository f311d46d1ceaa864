"""The base of every settings class: frozen, typed, and strict about names."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings are values: equal when their fields are, usable as keys, never mutated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
