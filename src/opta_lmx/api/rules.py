"""What each route asks of a key: one row for every route there is, as data.

A key is asked for on every path but the open ones, those that nobody serves included: what is
served here is not told to strangers. Tests hold this table against the live router.
"""

import re
from collections.abc import Callable
from typing import Literal

import msgspec
from starlette.routing import compile_path

from opta_lmx.core.principal import Scope

Kind = Literal["http", "websocket"]
"""How a route is reached; those of a mounted application are reached over HTTP."""

OPEN_PATHS = frozenset({"/healthz"})
"""Served without any key."""


class Row(msgspec.Struct, frozen=True):
    """One route.

    Attributes:
        methods: of HTTP, with blanks between; `*` for all, `WS` for a WebSocket.
        path: as the router has it, with parameters in braces.
        scope: what a key must have been given to come through; None: any key may.
    """

    methods: str
    path: str
    scope: Scope | None


_BASIC = [
    Row("GET", "/healthz", None),
    Row("GET", "/readyz", None),
    Row("GET", "/openapi.json", None),
    Row("GET", "/metrics", Scope.METRICS),
    Row("*", "/admin/{rest:path}", Scope.ADMIN),
]
_OPENAI = [
    Row("POST", "/v1/chat/completions", Scope.INFERENCE),
    Row("WS", "/v1/chat/stream", Scope.INFERENCE),
    Row("POST", "/v1/ws/tickets", Scope.INFERENCE),
    Row("POST", "/v1/completions", Scope.INFERENCE),
    Row("POST", "/v1/embeddings", Scope.INFERENCE),
    Row("GET", "/v1/models", Scope.INFERENCE),
    Row("GET", "/v1/models/{model_id:path}", Scope.INFERENCE),
    Row("GET", "/v1/usage", Scope.INFERENCE),
    Row("POST WS", "/v1/responses", Scope.INFERENCE),
    Row("POST", "/v1/responses/compact", Scope.INFERENCE),
    Row("POST", "/v1/responses/input_tokens", Scope.INFERENCE),
    Row("GET DELETE", "/v1/responses/{response_id}", Scope.INFERENCE),
    Row("POST", "/v1/responses/{response_id}/cancel", Scope.INFERENCE),
    Row("GET", "/v1/responses/{response_id}/input_items", Scope.INFERENCE),
]
_ANTHROPIC_AND_COHERE = [
    Row("POST", "/v1/messages", Scope.INFERENCE),
    Row("POST", "/v1/messages/count_tokens", Scope.INFERENCE),
    Row("POST", "/v1/rerank", Scope.INFERENCE),
    Row("POST", "/v2/rerank", Scope.INFERENCE),
]
_LMSTUDIO = [
    Row("GET", "/api/v0/models", Scope.INFERENCE),
    Row("GET", "/api/v0/models/{model_id:path}", Scope.INFERENCE),
    Row("GET", "/api/v1/models", Scope.INFERENCE),
    Row("POST", "/api/v1/models/load", Scope.ADMIN),
    Row("POST", "/api/v1/models/unload", Scope.ADMIN),
    Row("POST", "/api/v1/models/download", Scope.ADMIN),
    Row("GET", "/api/v1/models/download/status", Scope.ADMIN),
    Row("GET", "/api/v1/models/download/status/{job_id}", Scope.ADMIN),
]
# The two that answer also load and unload, where nothing is asked: the route itself asks for more.
_OLLAMA = [
    Row("GET", "/", None),
    Row("GET", "/api/version", None),
    Row("POST", "/api/chat", Scope.INFERENCE),
    Row("POST", "/api/generate", Scope.INFERENCE),
    Row("POST", "/api/embed", Scope.INFERENCE),
    Row("POST", "/api/embeddings", Scope.INFERENCE),
    Row("GET", "/api/tags", Scope.INFERENCE),
    Row("GET", "/api/ps", Scope.INFERENCE),
    Row("POST", "/api/show", Scope.INFERENCE),
    Row("POST", "/api/pull", Scope.ADMIN),
    Row("POST", "/api/push", Scope.ADMIN),
    Row("POST", "/api/create", Scope.ADMIN),
    Row("POST", "/api/copy", Scope.ADMIN),
    Row("DELETE", "/api/delete", Scope.ADMIN),
]
TABLE = (*_BASIC, *_OPENAI, *_ANTHROPIC_AND_COHERE, *_LMSTUDIO, *_OLLAMA)


def row_of(kind: Kind, method: str, path: str) -> Row | None:
    """The row of a request's path; None where no route is served.

    Args:
        kind: how it comes.
        method: of HTTP, in capitals; HEAD asks for what GET does. Empty for a WebSocket.
        path: as it was asked for, decoded.
    """
    asked = "WS" if kind == "websocket" else "GET" if method == "HEAD" else method
    literal = _LITERAL.get((asked, path))
    if literal is not None:
        return literal
    return next(
        (row for ways, fits, row in _PATTERNS if (asked in ways or "*" in ways) and fits(path)),
        None,
    )


def scope_of(kind: Kind, method: str, path: str) -> Scope | None:
    """What a request's key must have been given; None: any key may, or (`is_open`) nobody need."""
    row = row_of(kind, method, path)
    return None if row is None else row.scope


def is_open(path: str) -> bool:
    """True where no key is asked for."""
    return path in OPEN_PATHS


def _fits(path: str) -> Callable[[str], object]:
    """What the router's own pattern takes, and more: a line's end anywhere leads past no row.

    For the router's `$` takes one behind a path, and a parameter takes some within.
    """
    return re.compile(compile_path(path)[0].pattern, re.DOTALL).match


_LITERAL = {
    (way, row.path): row for row in TABLE if "{" not in row.path for way in row.methods.split()
}
_PATTERNS = tuple((frozenset(row.methods.split()), _fits(row.path), row) for row in TABLE)
