"""What every request passes: its host, its origin, its key, its size; and what every response carries."""

import asyncio
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from didact.serve.errors import answer
from didact.serve.state import State

POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
POLICY += "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
ALWAYS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Paths that ask for a key, where keys are.
OPEN = ("/v1/", "/metrics", "/feedback", "/update_weights_from_disk", "/openapi.json")
BODY = 1 << 20  # bytes of a request
SAFE = ("GET", "HEAD", "OPTIONS")
LOG = logging.getLogger("didact.serve")


class Gate:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, state: State):
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses, or lets through and counts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope, MutableHeaders(scope=message))
            await send(message)

        refused = await self._refused(scope)
        try:
            await (refused or self.app)(scope, receive, dressed)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "") or "other"  # never what a client may have made up
            self.state.metrics.requests.labels(path, str(status)).inc()
            LOG.info("%s %s %d %.3f s", scope["method"], path, status, time.monotonic() - begun)

    async def _refused(self, scope: Scope) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.state.hosts and urlsplit(f"//{host}").hostname not in self.state.hosts:
            return answer("this server does not answer to that host name", 403, code="host_not_allowed")
        if origin is not None and urlsplit(origin).netloc != host:
            if origin not in self.state.cors:
                if method not in SAFE or method == "OPTIONS":
                    return answer("this origin may not ask; start the server with --cors", 403, code="cors")
            elif method == "OPTIONS" and "access-control-request-method" in headers:
                return Response(status_code=204)
        if int(headers.get("content-length", 0)) > BODY:
            return answer(f"a request may have {BODY} bytes", 413)
        if self.state.keys and method != "OPTIONS" and scope["path"].startswith(OPEN):
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not await asyncio.to_thread(self.state.keys.allows, key.strip()):
                challenge = {"WWW-Authenticate": "Bearer"}
                return answer("a valid API key is needed", 401, code="invalid_api_key", headers=challenge)
        return None

    def _dress(self, scope: Scope, headers: MutableHeaders) -> None:
        for name, value in ALWAYS.items():
            headers.setdefault(name, value)
        kind = headers.get("content-type", "")
        if kind.startswith(("text/html", "application/json", "text/event-stream")):
            headers["Cache-Control"] = "no-store"
        elif kind.startswith(("text/javascript", "text/css")):
            headers["Cache-Control"] = "no-cache"  # a newer page is asked for, not an older one shown
        origin = Headers(scope=scope).get("origin")
        if origin in self.state.cors:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Headers"] = "authorization, content-type, idempotency-key"
            headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            headers.add_vary_header("Origin")
