"""The base of every settings class: frozen, typed, and strict about names."""

import re
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

HUMANE = r"\d{1,18}(\.\d{1,12})?[kKmMbB]"
_DIGITS = {"": 0, "k": 3, "m": 6, "b": 9}
_WHOLE = (int, int | None)
_NUMBERS = (*_WHOLE, float, float | None)
_LARGEST = 2**63 - 1


def count(text: str) -> int:
    """The whole number in ``12``, ``100k``, ``1M`` or ``1.5B`` (thousand, million, billion); ValueError otherwise."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,12})?)([kmb]?)", text.strip().lower(), re.ASCII)
    number = Decimal(found[1]).scaleb(_DIGITS[found[2]]) if found else Decimal("0.5")
    if number != number.to_integral_value():
        raise ValueError(f"wanted a whole number such as 12, 100k or 1.5M, got {text!r}")
    return int(number)


class Settings(BaseModel):
    """Settings are values: equal when their fields are, usable as keys, never mutated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def humane_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Reads ``100k`` where a whole number is wanted; refuses truth values, which Python would count as 0 and 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if annotation in _NUMBERS and isinstance(value, bool):
            raise ValueError(f"wanted a number, got {str(value).lower()}")
        if annotation in _WHOLE and isinstance(value, str) and re.fullmatch(HUMANE, value, re.ASCII):
            value = count(value)
        if annotation in _WHOLE and isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError("this number is too large")
        return value
