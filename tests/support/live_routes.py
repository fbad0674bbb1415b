"""Every way into a running application, from its own router: tests know of no other list."""

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
    def needed(self) -> Scope | None:
        return rules.scope_of(self.kind, self.method, self.asked)


def live_ways(routes: Iterable[Any]) -> list[Way]:
    """All of them, sorted, also those that no document names.

    What lies below a mounted application is not known here: it counts as any method of any path,
    and tests that ask each way fail until they are told how to ask it.
    """
    return sorted(set(_ways(routes)))


def _ways(routes: Iterable[Any]) -> Iterator[Way]:
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from _ways(inner.routes)
        elif isinstance(route, WebSocketRoute):
            yield Way("websocket", "", route.path)
        elif isinstance(route, Mount):
            for method in ("GET", "POST", "DELETE", "PUT"):
                yield Way("http", method, route.path + "/{rest:path}")
            yield Way("websocket", "", route.path + "/{rest:path}")
        else:
            for method in route.methods:
                yield Way("http", method, route.path)
