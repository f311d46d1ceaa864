"""What is said to an engine behind a URL."""

import json
import os
import urllib.request
from typing import Any

PATIENCE = 600  # seconds for an answer


def posted(where: str, asked: dict[str, Any]) -> bytes:
    """What is answered to a JSON body, sent with the key in DIDACT_ROLLOUT_KEY. Raises OSError, such as HTTPError."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("DIDACT_ROLLOUT_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(where, json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()
