"""What operators do is written down before it is done, and before it is told what came of it."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from opta_lmx.api.audit import ERROR_CODE, Audit, audited, tell_target
from opta_lmx.api.audit_actions import AUDITED, LOAD, TABLE, asked_for
from opta_lmx.api.callers import KNOWN, PRINCIPAL, REQUEST_ID
from opta_lmx.api.errors import STATUS, Envelopes
from opta_lmx.api.openai.errors import render
from opta_lmx.core import principal
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.tenancy.audit import AuditLog, unavailable
from opta_lmx.tenancy.audit_rows import Entry

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
OPERATOR = Principal(tenant="ours", key="operator")


class Log(AuditLog):
    """Keeps rows in a list that also hears of all else, or refuses them."""

    def __init__(self, heard: list[Any], *, broken: bool = False) -> None:
        self.heard = heard
        self.broken = broken

    async def append(self, entry: Entry) -> int:
        if self.broken:
            raise unavailable()
        self.heard.append(entry)
        return len(self.heard)

    async def refused(self, entry: Entry) -> bool:
        return bool(await self.append(entry))


class Place:
    """The middleware, what is behind it, and in which order things happened."""

    def __init__(
        self, handler: Handler | None = None, *, broken: bool = False, **rules: bool
    ) -> None:
        self.heard: list[Any] = []
        self.missed: list[dict[str, Any]] = []
        self.log = Log(self.heard, broken=broken)
        envelopes = Envelopes(render)
        place = self

        class Telemetry(NullTelemetry):
            def log(self, level: str, event: str, **fields: object) -> None:
                place.missed.append({"event": event, **fields})

        wanted = {"strict": True, "reads": False, **rules}
        self.audit = Audit(handler or self.act, self.log, envelopes, Telemetry(), **wanted)

    async def act(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        self.heard.append(("done", body))
        await answer(send, 200)

    def ask(
        self,
        method: str,
        path: str,
        *parts: bytes,
        kind: str = "http",
        owner: Principal | None = OPERATOR,
    ) -> None:
        incoming: list[Message] = [
            {"type": "http.request", "body": part, "more_body": True} for part in parts
        ]
        incoming.append({"type": "http.request", "body": b"", "more_body": False})

        async def receive() -> Message:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.heard.append(message.get("status") or message["type"])
            if message.get("body"):
                self.body = message["body"]

        scope: dict[str, Any] = {
            "type": kind,
            "path": path,
            "query_string": b"",
            "headers": [],
            "client": ("10.0.0.9", 1),
            REQUEST_ID: "req-1",
        }
        if kind == "http":
            scope["method"] = method
        else:
            scope["extensions"] = {"websocket.http.response": {}}
        if owner is not None:
            scope[PRINCIPAL] = owner
        asyncio.run(self.audit(scope, receive, send))

    @property
    def rows(self) -> list[Entry]:
        return [one for one in self.heard if isinstance(one, Entry)]


async def answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


LOADS = b'{"model": "m", "backend": "mlx"}'


def test_a_row_before_it_is_done_and_one_before_it_is_told() -> None:
    place = Place()
    place.ask("POST", "/admin/models/load", LOADS[:9], LOADS[9:])
    begun, done, ended, *told = place.heard
    assert (begun.action, begun.target, begun.outcome) == ("models.load", "m", "begun")
    assert (begun.tenant, begun.who, begun.address) == ("ours", "operator", "10.0.0.9")
    assert begun.request_id == "req-1"
    assert done == ("done", LOADS)
    assert (ended.outcome, ended.status, ended.began, ended.target) == ("ok", 200, 1, "m")
    assert told == [200, "http.response.body"]


def test_where_the_path_tells_nothing_is_waited_for() -> None:
    place = Place()
    place.ask("POST", "/admin/keys/abcdefgh/rotate", b"{}")
    begun, done, ended = place.heard[:3]
    assert (begun.action, begun.target, begun.outcome) == ("keys.rotate", "abcdefgh", "begun")
    assert (done[0], ended.outcome) == ("done", "ok")


@pytest.mark.parametrize(
    ("body", "target"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"{", ""),
        (b'{"model": 7}', ""),
        (b'{"model": "\\ud800"}', "\ufffd"),
        (b"[" * 30_000, ""),
        (b'{"model": "m", "x": "' + b"y" * 70_000 + b'"}', ""),
    ],
)
def test_a_body_that_names_nothing_leaves_rows_all_the_same(body: bytes, target: str) -> None:
    place = Place()
    place.ask("POST", "/admin/models/load", body)
    assert [(row.outcome, row.target) for row in place.rows] == [("begun", target), ("ok", target)]
    assert ("done", body) in place.heard


@pytest.mark.parametrize(
    ("status", "outcome"), [(202, "ok"), (404, "failed"), (403, "refused"), (503, "failed")]
)
def test_what_came_of_it_is_the_status_and_the_code(status: int, outcome: str) -> None:
    async def act(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ERROR_CODE] = "some_code"
        tell_target(Request(scope), "what it was")
        await answer(send, status)

    place = Place(act)
    place.ask("POST", "/admin/presets/reload")
    begun, ended = place.rows
    assert (ended.outcome, ended.status, ended.code) == (outcome, status, "some_code")
    assert (begun.target, ended.target) == ("", "what it was")


def test_an_answer_before_the_body_leaves_one_row() -> None:
    async def act(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 413)

    place = Place(act)
    place.ask("POST", "/admin/models/load", LOADS)
    (ended,) = place.rows
    assert (ended.outcome, ended.began) == ("failed", None)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("broken")])
def test_what_ends_without_an_answer_is_told(error: BaseException) -> None:
    async def act(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    place = Place(act)
    with pytest.raises(type(error)):
        place.ask("DELETE", "/admin/models/org/m")
    begun, ended = place.rows
    assert (begun.action, begun.target) == ("models.delete", "org/m")
    assert (ended.outcome, ended.status, ended.code) == ("failed", None, "no_answer")


@pytest.mark.parametrize("path", ["/admin/models/load", "/admin/presets/reload"])
def test_what_cannot_be_written_is_not_done(path: str) -> None:
    async def act(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await Request(scope, receive).body()
            place.heard.append("done")
        except LmxError as error:
            await answer(send, STATUS[error.kind])

    place = Place(act, broken=True)
    place.ask("POST", path, LOADS)
    assert place.heard == [503, "http.response.body"]
    assert [one["event"] for one in place.missed] == ["audit row not written"]
    if path.endswith("reload"):
        assert json.loads(place.body)["error"]["code"] == "audit_unavailable"


@pytest.mark.parametrize("path", ["/admin/models/load", "/admin/presets/reload"])
def test_on_loopback_it_is_done_and_logged(path: str) -> None:
    place = Place(broken=True, strict=False)
    place.ask("POST", path, LOADS)
    assert place.heard == [("done", LOADS), 200, "http.response.body"]
    assert [one["outcome"] for one in place.missed] == ["begun", "ok"]


def test_reads_are_written_where_they_show_keys_or_where_that_is_asked_for() -> None:
    for path, reads, names in (
        ("/admin/keys", False, ["keys.list"]),
        ("/admin/status", False, []),
        ("/admin/status", True, ["other.read"]),
        ("/metrics", True, []),
        ("/v1/models", True, []),
    ):
        place = Place(reads=reads)
        place.ask("GET", path)
        assert [row.action for row in place.rows] == names, path
        assert all(row.outcome == "ok" and row.began is None for row in place.rows)


def test_reading_goes_on_while_nothing_can_be_written() -> None:
    place = Place(broken=True)
    place.ask("GET", "/admin/keys")
    assert place.heard == [("done", b""), 200, "http.response.body"]


def test_inference_waits_for_no_row() -> None:
    place = Place(broken=True)
    place.ask("POST", "/v1/chat/completions", b"{}")
    assert place.heard == [("done", b"{}"), 200, "http.response.body"]
    assert place.missed == []


def test_who_is_turned_away_is_told_by_the_key_that_was_shown() -> None:
    place = Place()
    scope: dict[str, Any] = {"type": "http", "method": "DELETE", "path": "/admin/keys/abc"}
    error = LmxError(ErrorKind.FORBIDDEN, "no", code="insufficient_scope")
    asyncio.run(place.audit.refused({**scope, KNOWN: OPERATOR, "client": ("10.0.0.9", 1)}, error))
    asyncio.run(place.audit.refused(scope, LmxError(ErrorKind.UNAUTHENTICATED, "no")))
    asyncio.run(place.audit.refused({**scope, "path": "/v1/models"}, error))
    named, stranger = place.rows
    assert (named.who, named.status, named.code) == ("operator", 403, "insufficient_scope")
    assert (named.action, named.target, named.outcome) == ("keys.revoke", "abc", "refused")
    assert (stranger.who, stranger.tenant, stranger.status) == ("anonymous", "", 401)


def test_a_socket_is_written_down_once() -> None:
    async def act(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x"})
        await send({"type": "websocket.close", "code": 1000})

    place = Place(act)
    place.ask("", "/admin/live", kind="websocket")
    begun, ended = place.rows
    assert (begun.action, begun.target) == ("other.change", "/admin/live")
    assert (ended.outcome, ended.status) == ("ok", 101)

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 1008})

    place = Place(closes)
    place.ask("", "/admin/live", kind="websocket")
    assert [row.outcome for row in place.rows] == ["begun", "refused"]


# --- routes that ask for more themselves


def by_route(error: BaseException | None = None) -> Handler:
    async def act(scope: Scope, receive: Receive, send: Send) -> None:
        status = 200
        try:
            async with audited(Request(scope, receive), principal.Scope.ADMIN, LOAD, "m"):
                if error is not None:
                    raise error
        except LmxError as refused:
            status = 403 if refused.kind is ErrorKind.FORBIDDEN else 503
        await answer(send, status)

    return act


def test_a_route_may_write_down_what_it_does_itself() -> None:
    place = Place(by_route())
    place.ask("POST", "/api/chat", b"{}")
    begun, ended, *_ = place.heard
    assert (begun.action, begun.target, begun.outcome) == ("models.load", "m", "begun")
    assert (ended.outcome, ended.status, ended.began) == ("ok", 200, 1)


def test_what_such_a_route_raises_is_told() -> None:
    place = Place(by_route(LmxError(ErrorKind.CONFLICT, "no", code="busy")))
    place.ask("POST", "/api/chat", b"{}")
    assert [(row.outcome, row.status, row.code) for row in place.rows] == [
        ("begun", None, ""),
        ("failed", 409, "busy"),
    ]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("unforeseen"), 500, "internal_error"),
        (ClientDisconnect(), None, "no_answer"),
        (asyncio.CancelledError(), None, "no_answer"),
    ],
)
def test_what_nobody_foresaw_is_told_as_it_is_answered(
    error: BaseException, status: int | None, code: str
) -> None:
    place = Place(by_route(error))
    with contextlib.suppress(type(error)):
        place.ask("POST", "/api/chat", b"{}")
    assert [(row.outcome, row.status, row.code) for row in place.rows] == [
        ("begun", None, ""),
        ("failed", status, code),
    ]


def test_such_a_route_refuses_those_without_the_scope() -> None:
    place = Place(by_route())
    bot = Principal(key="bot", scopes=frozenset({principal.Scope.INFERENCE}))
    place.ask("POST", "/api/chat", b"{}", owner=bot)
    (row,) = place.rows
    assert (row.who, row.outcome, row.code) == ("bot", "refused", "insufficient_scope")
    assert 403 in place.heard


def test_such_a_route_does_nothing_that_cannot_be_written() -> None:
    place = Place(by_route(AssertionError("must not be reached")), broken=True)
    place.ask("POST", "/api/chat", b"{}")
    assert place.heard == [503, "http.response.body"]


# --- the table


def test_each_row_of_the_table_is_met_by_its_own_path() -> None:
    for action in TABLE:
        path = action.path
        for parameter in (
            "{download_id}",
            "{model_id:path}",
            "{model:path}",
            "{job}",
            "{key_id}",
            "{name}",
        ):
            path = path.replace(parameter, "one")
        assert asked_for(action.method, path).action == action, action
    assert asked_for("DELETE", "/admin/models/a/b\nc").target == "a/b\nc"
    assert asked_for("PUT", "/admin/new").action.name == "other.change"


def test_scopes_of_operators_are_audited() -> None:
    open_to_callers = {principal.Scope.INFERENCE, principal.Scope.METRICS}
    assert set(principal.Scope) - AUDITED == open_to_callers
