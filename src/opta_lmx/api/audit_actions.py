"""What the audit log calls each request that it may write down: one row for each route, as data.

Tests hold this table against the live router: a route that changes something, and whose scope is
an operator's, must have a row here.
"""

import re
from collections.abc import Callable

import msgspec
from starlette.routing import compile_path

from opta_lmx.core.principal import Scope

AUDITED = frozenset({Scope.ADMIN, Scope.AGENTS, Scope.SKILLS})
"""Scopes of the routes that are audited."""
READS = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""


class Action(msgspec.Struct, frozen=True):
    """What a request does.

    Attributes:
        method: of HTTP.
        path: as the router has it, with parameters in braces.
        name: what the log calls it.
        field: of the body, which names what it is done to; else a parameter of the path does.
            The route must not act before it has read its body.
        always: written though it changes nothing.
    """

    method: str
    path: str
    name: str
    field: str = ""
    always: bool = False

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.method not in READS


class Asked(msgspec.Struct, frozen=True):
    """The action of one request, and what its path says it is done to."""

    action: Action
    target: str = ""


_MODELS = [
    Action("POST", "/admin/models/load", "models.load", "model"),
    Action("POST", "/admin/models/unload", "models.unload", "model"),
    Action("POST", "/admin/models/fit", "models.fit", "model"),
    Action("POST", "/admin/models/probe", "models.probe", "model"),
    Action("POST", "/admin/models/download", "models.download", "model"),
    # Its body has a token alone: the route tells of what.
    Action("POST", "/admin/models/download/confirm", "models.download_confirm"),
    Action("DELETE", "/admin/models/downloads/{download_id}", "downloads.cancel"),
    Action("POST", "/admin/models/{model_id:path}/reset", "models.reset"),
    Action("DELETE", "/admin/models/{model:path}", "models.delete"),
]
_OTHERS = [
    Action("POST", "/admin/presets/reload", "presets.reload"),
    Action("POST", "/admin/quantize", "quantize.start", "model"),
    Action("POST", "/admin/quantize/{job}/cancel", "quantize.cancel"),
    Action("DELETE", "/admin/quantize/{job}", "quantize.cancel"),
    Action("POST", "/admin/benchmark/run", "benchmark.run", "model"),
    Action("GET", "/admin/keys", "keys.list", always=True),
    Action("POST", "/admin/keys", "keys.create", "name"),
    Action("POST", "/admin/keys/{key_id}/rotate", "keys.rotate"),
    Action("DELETE", "/admin/keys/{key_id}", "keys.revoke"),
    Action("PUT", "/admin/quotas/keys/{name}", "quotas.set_key"),
    Action("DELETE", "/admin/quotas/keys/{name}", "quotas.clear_key"),
    Action("PUT", "/admin/quotas/tenants/{name}", "quotas.set_tenant"),
    Action("DELETE", "/admin/quotas/tenants/{name}", "quotas.clear_tenant"),
]
_DIALECTS = [
    Action("POST", "/api/v1/models/load", "models.load", "model"),
    Action("POST", "/api/v1/models/unload", "models.unload", "instance_id"),
    Action("POST", "/api/v1/models/download", "models.download", "model"),
    Action("POST", "/api/pull", "models.pull"),
    Action("POST", "/api/push", "models.push"),
    Action("POST", "/api/create", "models.create"),
    Action("POST", "/api/copy", "models.copy"),
    Action("DELETE", "/api/delete", "models.delete"),
]
TABLE = (*_MODELS, *_OTHERS, *_DIALECTS)

LOAD, UNLOAD = "models.load", "models.unload"
"""Also what is done where a dialect loads and unloads by asking nothing."""


def asked_for(method: str, path: str) -> Asked:
    """What a request of an audited scope does.

    What has no row is told by its path.

    Args:
        method: of HTTP, in capitals; empty for a WebSocket.
        path: as it was asked for, decoded.
    """
    for action, match in _PATTERNS:
        if action.method == method and (found := match(path)):
            return Asked(action, " ".join(found.groupdict().values()))
    name = "other.read" if method in READS else "other.change"
    return Asked(Action(method, path, name), path)


def _matcher(path: str) -> "Callable[[str], re.Match[str] | None]":
    # As the router has it, but a line's end anywhere leads past no row.
    return re.compile(compile_path(path)[0].pattern, re.DOTALL).match


_PATTERNS = tuple((action, _matcher(action.path)) for action in TABLE)
