"""Tool calls, which models write as ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, and text apart."""

import json
import re
import secrets
from typing import Any

from didact.rollout.text import undecided

OPEN = "<tool_call>"
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|\Z)", re.S)


def split(text: str) -> tuple[str, list[dict[str, Any]]]:
    """What an answer says, and the calls it makes; a call that cannot be read is part of what it says."""
    calls = [call for found in CALL.finditer(text) if (call := _call(found[1]))]
    return (CALL.sub("", text).strip() if calls else text), calls


def certain(text: str) -> int:
    """How many characters of an answer under way are surely no call."""
    begun = text.find(OPEN)
    return len(text[: begun if begun >= 0 else len(text) - undecided(text, (OPEN,))].rstrip())


def _call(written: str) -> dict[str, Any] | None:
    try:
        said = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return None
    arguments = said.get("arguments", said.get("parameters", {}))
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": said["name"], "arguments": written}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
