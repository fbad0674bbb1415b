"""The live router and its OpenAPI document, walked: each route, and bodies made from schemas."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import httpx

from tests.contract.matrix.surfaces import SURFACES
from tests.support.live_routes import live_ways
from tests.support.server import LiveServer

Json = dict[str, Any]
Path = tuple[str | int, ...]
MUTATING = ("POST", "PUT", "PATCH", "DELETE")

SCRIPTS: dict[str, Json] = {
    "chat": {"reply": "one two three", "infill": True},
    "embedding": {"kind": "embedding"},
    "rerank": {"kind": "rerank"},
}
"""Sim models, one of each kind, named after it."""


class Route(NamedTuple):
    """One route and one method of it."""

    method: str
    path: str

    @property
    def asked(self) -> str:
        """The path with a name nobody has in place of each parameter."""
        return self.filled("none")

    def filled(self, value: str) -> str:
        """The path with a text in place of each parameter."""
        return re.sub(r"{[^}]+}", lambda _: value, self.path)


def routes(server: LiveServer) -> list[Route]:
    """Every HTTP route of a server."""
    ways = live_ways(server.app.http.routes)
    return [Route(way.method, way.path) for way in ways if way.kind == "http"]


def document(server: LiveServer, headers: dict[str, str] | None = None) -> Json:
    """The server's own OpenAPI document."""
    reply = httpx.get(f"{server.url}/openapi.json", headers=headers, timeout=30)
    return reply.raise_for_status().json()


def operations(told: Json) -> Iterator[tuple[Route, Json]]:
    """Every operation of an OpenAPI document."""
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield Route(method.upper(), path), operation


def body_schema(operation: Json) -> Json | None:
    """The schema of an operation's JSON body; None where it takes none."""
    content = operation.get("requestBody", {}).get("content", {})
    return content.get("application/json", {}).get("schema")


def least_body(path: str, schema: Json) -> Json:
    """A small sound body of a route: the matrix's own where it has one."""
    for surface in SURFACES:
        if surface.path == path:
            return {"model": surface.kind, **surface.least}
    return least(schema)


def leaves(schema: Json, kinds: Iterable[str], path: Path = ()) -> Iterator[tuple[Path, Json]]:
    """Where a schema has values of these JSON types, with the schema of each."""
    if schema.get("type") in kinds:
        yield path, schema
    for word in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(word, ()):
            yield from leaves(one, kinds, path)
    for name, one in schema.get("properties", {}).items():
        yield from leaves(one, kinds, (*path, name))
    for place, one in enumerate(schema.get("prefixItems", ())):
        yield from leaves(one, kinds, (*path, place))
    for word, name in (("items", 0), ("additionalProperties", "5")):
        if isinstance(schema.get(word), dict):
            yield from leaves(schema[word], kinds, (*path, name))


def with_value(schema: Json, path: Path, value: object) -> Any:
    """The least instance of a schema that holds a value at a path."""
    if not path:
        return value
    for word in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(word, ()):
            if _leads(one, path):
                return with_value(one, path, value)
    name, rest = path[0], path[1:]
    if isinstance(name, int):
        inner = schema["prefixItems"][name] if "prefixItems" in schema else schema["items"]
        return [with_value(inner, rest, value)]
    inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
    return {**least(schema), name: with_value(inner, rest, value)}


def _leads(schema: Json, path: Path) -> bool:
    """Whether a path leads through a schema."""
    if not path:
        return True
    if any(_leads(one, path) for word in ("anyOf", "oneOf") for one in schema.get(word, ())):
        return True
    name, rest = path[0], path[1:]
    if isinstance(name, int):
        inner = schema.get("items") or (schema.get("prefixItems") or [None])[0]
    else:
        inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
    return isinstance(inner, dict) and _leads(inner, rest)


def least(schema: Json) -> Any:
    """A small instance of a schema, without what may be left out."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return least(schema[word][0])
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            return {name: least(schema["properties"][name]) for name in required}
        case "array":
            return [least(schema.get("items", {}))] * schema.get("minItems", 0)
        case "integer":
            return schema.get("minimum", 1)
        case "number":
            return schema.get("minimum", 0.5)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "x" * schema.get("minLength", 1)
