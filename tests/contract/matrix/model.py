"""What the compatibility matrix is made of: one row for each field, proved by a probe."""

from typing import Any, Literal, NamedTuple

Status = Literal["supported", "accepted", "refused", "by model"]
"""`accepted`: has a stated meaning that changes nothing here. `refused`: a 400 naming it.

`by model`: some models can, and all others (those of the probe too) answer as `refused`.
"""
Kind = Literal["chat", "embedding", "rerank"]
EVERYTHING = "*"
"""As a part: all there is inside the field."""
BACKENDS = ("mlx", "gguf")


class Row(NamedTuple):
    """One field of one request.

    Attributes:
        field: dotted path in the request.
        status: what happens to it.
        meaning: what it does here, or why it is refused.
        probe: request fields that use it; merged over the surface's least request.
        only: backends that support it, where not all do; the others refuse it.
        parts: fields inside it that are part of its meaning and need no row of their own.
    """

    field: str
    status: Status
    meaning: str
    probe: dict[str, Any]
    only: tuple[str, ...] = BACKENDS
    parts: tuple[str, ...] = ()

    def status_on(self, backend: str) -> Status:
        """What happens to the field on one backend."""
        return self.status if backend in self.only else "refused"


class Surface(NamedTuple):
    """One request of one dialect.

    Attributes:
        name: as people call it.
        path: of the route.
        least: the smallest sound request, without its model.
        rows: every field.
        sdk: where the client's request type is found: `package.module:Type`, if it has one.
        watch: the test that notices when the client or specification moves on.
        kind: the kind of model it is for.
    """

    name: str
    path: str
    least: dict[str, Any]
    rows: tuple[Row, ...]
    sdk: str | None
    watch: str
    kind: Kind = "chat"


def supported(field: str, value: object, meaning: str) -> Row:
    """A top-level field that has an effect, probed with `value`."""
    return Row(field, "supported", meaning, {field: value})


def accepted(field: str, value: object, meaning: str) -> Row:
    """A top-level field that changes nothing here."""
    return Row(field, "accepted", meaning, {field: value})


def refused(field: str, value: object, why: str) -> Row:
    """A top-level field that is refused with this value."""
    return Row(field, "refused", why, {field: value})


def by_model(field: str, value: object, meaning: str) -> Row:
    """A top-level field that only some models can do; the probe's model cannot."""
    return Row(field, "by model", meaning, {field: value})


def nested(field: str, status: Status, meaning: str, **probe: Any) -> Row:
    """A field inside others; `probe` is a request that uses it."""
    return Row(field, status, meaning, probe)


def with_parts(row: Row, *parts: str) -> Row:
    """The row, speaking for these fields inside it too."""
    return row._replace(parts=parts)


def without(row: Row, *fields: str) -> Row:
    """The row with a probe that leaves these fields out, for requests that do not have them."""
    left = {name: value for name, value in row.probe.items() if name not in fields}
    return row._replace(probe=left)
