"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from didact.errors import Problem, ResourceProblem
from didact.serve.engine import Broken, Full

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {413: "request_too_large", 404: "not_found", 405: "method_not_allowed", 500: "internal_error"}


class Refused(Exception):
    """A request that will not be answered, and why."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


def body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The error as it goes out."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    about = {"message": _writable(message), "type": kind, "param": param and _writable(param)}
    return {"error": {**about, "code": code or CODES.get(status)}}


def _writable(text: str) -> str:
    """A text without halves of characters, which JSON can say and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def answer(
    message: str,
    status: int,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(body(message, status, param, code), status, headers)


def of(error: Exception) -> tuple[str, int, str | None, str | None]:
    """Message, status, parameter and code of what a request may end with."""
    match error:
        case Refused():
            return error.message, error.status, error.param, error.code
        case Full():
            return str(error), 429, None, "queue_full"
        case Broken():
            return str(error), 503 if error.stopped else 500, None, "stopping" if error.stopped else "engine_failed"
        case ResourceProblem():
            return str(error), 503, None, None
        case Problem():
            return str(error), 400, None, None
        case _:
            return "the server made a mistake; its log says more", 500, None, None


def install(app: FastAPI) -> None:
    """Every error of this application in the one shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        headers = {"Retry-After": str(error.seconds)} if isinstance(error, Full) else None
        return answer(*of(error), headers=headers)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = error.detail or HTTPStatus(error.status_code).phrase
        return answer(str(message), error.status_code, headers=error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        extra = first["type"] == "extra_forbidden"
        message = f"unrecognized request argument: {where}" if extra else f"{where or 'body'}: {first['msg']}"
        return answer(message, 400, where or None, "unknown_parameter" if extra else "invalid_value")

    for kind in (Refused, Full, Broken, Problem, Exception):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
