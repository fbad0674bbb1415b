"""Every way into a running application, from its own router."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from starlette.routing import Mount, WebSocketRoute

from opta_lmx.api import rules
from opta_lmx.core.principal import Scope


class Way(NamedTuple):
    """A route and a method of it; without one for a WebSocket."""

    kind: rules.Kind
    method: str
    path: str

    @property
    def asked(self) -> str:
        """The path with something in place of each parameter."""
        return re.sub(r"{[^}]+}", "none", self.path)

    @property
    def scope(self) -> Scope | None:
        return rules.scope_of(self.kind, self.method, self.asked)


def live_ways(routes: Iterable[Any]) -> list[Way]:
    """All of them, sorted."""
    return sorted(set(_ways(routes)))


def _ways(routes: Iterable[Any]) -> Iterator[Way]:
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from _ways(inner.routes)
        elif isinstance(route, WebSocketRoute):
            yield Way("websocket", "", route.path)
        elif isinstance(route, Mount):
            # What lies below is not known here: it must be told by whoever mounts it.
            yield Way("http", "POST", route.path + "/{rest:path}")
        else:
            for method in route.methods:
                yield Way("http", method, route.path)
