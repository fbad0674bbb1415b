"""What routes ask of a key: whatever the router takes for a route is held to that route's row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import compile_path

from opta_lmx.api import rules
from opta_lmx.core.principal import Scope


@pytest.mark.parametrize(
    ("kind", "method", "path", "scope"),
    [
        ("http", "GET", "/healthz", None),
        ("http", "GET", "/readyz", None),
        ("http", "GET", "/metrics", Scope.METRICS),
        ("http", "HEAD", "/metrics", Scope.METRICS),
        ("http", "GET", "/admin/status", Scope.ADMIN),
        ("http", "PATCH", "/admin/none/yet", Scope.ADMIN),
        ("websocket", "", "/admin/none/yet", Scope.ADMIN),
        ("http", "DELETE", "/admin/models/org/name", Scope.ADMIN),
        ("http", "POST", "/v1/chat/completions", Scope.INFERENCE),
        ("http", "GET", "/v1/models/org/name:mlx", Scope.INFERENCE),
        ("http", "DELETE", "/v1/responses/resp_1", Scope.INFERENCE),
        ("websocket", "", "/v1/responses", Scope.INFERENCE),
        ("http", "GET", "/api/v1/models", Scope.INFERENCE),
        ("http", "POST", "/api/v1/models/load", Scope.ADMIN),
        ("http", "GET", "/api/v1/models/download/status/7", Scope.ADMIN),
        ("http", "DELETE", "/api/delete", Scope.ADMIN),
        ("http", "POST", "/api/chat", Scope.INFERENCE),
        ("http", "GET", "/v1/chat/completions", None),
        ("websocket", "", "/v1/chat/completions", None),
        ("http", "GET", "/nowhere", None),
    ],
)
def test_what_is_asked(kind: rules.Kind, method: str, path: str, scope: Scope | None) -> None:
    assert rules.scope_of(kind, method, path) is scope


def test_only_liveness_is_open() -> None:
    assert {row.path for row in rules.TABLE if rules.is_open(row.path)} == {"/healthz"}
    for path in ("/healthz/", "/healthz\n", "//healthz", "/HEALTHZ", "/admin/healthz", ""):
        assert not rules.is_open(path), path


def test_no_route_has_two_rows() -> None:
    ways = [(way, row.path) for row in rules.TABLE for way in row.methods.split()]
    assert len(ways) == len(set(ways))


ROWS = [(row, way) for row in rules.TABLE for way in row.methods.split() if way != "*"]


@given(
    row=st.sampled_from(ROWS),
    filling=st.text(st.sampled_from("a/.:%\n\r \x00é-_"), min_size=1, max_size=6),
    ending=st.sampled_from(["", "\n"]),
)
def test_what_the_router_takes_for_a_route_is_held_to_its_row(
    row: tuple[rules.Row, str], filling: str, ending: str
) -> None:
    wanted, way = row
    pattern, form, parameters = compile_path(wanted.path)
    path = form.format(**dict.fromkeys(parameters, filling)) + ending
    if pattern.match(path) is None:
        return  # the router would not take it for this route
    kind: rules.Kind = "websocket" if way == "WS" else "http"
    found = rules.row_of(kind, "" if way == "WS" else way, path)
    assert found is not None
    assert found.scope is wanted.scope or found.scope is Scope.ADMIN


@given(st.text(st.sampled_from("az/.:%\n\r "), max_size=12))
def test_whatever_lies_below_admin_needs_its_scope(rest: str) -> None:
    assert rules.scope_of("http", "POST", f"/admin/{rest}") is Scope.ADMIN
