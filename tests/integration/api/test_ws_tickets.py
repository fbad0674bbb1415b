"""A ticket opens a real socket, once: in the address or beside a protocol, while its key lives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from opta_lmx.api.tickets import PER_KEY, TICKET_S
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

OPERATOR, BOT, NARROW = "sk-operator", "sk-bot", "sk-metrics-only"
KEYS: list[dict[str, Any]] = [
    {"name": "operator", "key": OPERATOR, "scopes": ["admin", "inference"]},
    {"name": "bot", "key": BOT, "models": ["m"]},
    {"name": "narrow", "key": NARROW, "scopes": ["metrics"]},
]
SCRIPTS: dict[str, dict[str, Any]] = {"m": {"reply": "one two"}, "other": {}}
PAGE = {"Origin": "http://localhost:3000"}
PATH = "/v1/chat/stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    security = {"auth_failures_per_minute": 1000}
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, SCRIPTS, access={"keys": KEYS}, security=security) as live:
        yield live


def asked(server: LiveServer, key: str, **more: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", **more}
    return httpx.post(f"{server.url}/v1/ws/tickets", headers=headers, timeout=30)


def ticket(server: LiveServer, key: str = BOT, **more: str) -> str:
    reply = asked(server, key, **more)
    assert reply.status_code == 201, reply.text
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json().keys() == {"ticket", "expires_in_s"}
    assert reply.json()["expires_in_s"] == TICKET_S <= 30
    return reply.json()["ticket"]


def refused(server: LiveServer, path: str, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught, WsClient(server.url, path, **options):
        pass
    return caught.value.response.status_code


@pytest.mark.parametrize("path", [PATH, "/v1/responses"])
def test_a_ticket_in_the_address_opens_once(server: LiveServer, path: str) -> None:
    shown = f"{path}?ticket={ticket(server)}"
    with WsClient(server.url, shown):
        pass
    assert refused(server, shown) == 401


def test_a_ticket_beside_a_protocol_opens_once(server: LiveServer) -> None:
    offered = {"subprotocols": ["chat", f"lmx-ticket.{ticket(server)}"]}
    with WsClient(server.url, PATH, **offered) as client:
        assert client.connection.subprotocol == "chat"
        client.ask("a")
        assert client.until("a")["type"] == "chat.done"
    assert refused(server, PATH, **offered) == 401


def test_the_socket_is_the_keys_owners(server: LiveServer) -> None:
    with WsClient(server.url, f"{PATH}?ticket={ticket(server)}") as client:
        client.ask("a", "other")
        assert client.until("a")["error"]["code"] == "model_not_allowed"


def test_a_ticket_is_no_key(server: LiveServer) -> None:
    made = ticket(server)
    for headers in ({"Authorization": f"Bearer {made}"}, {"X-Api-Key": made}):
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{server.url}/v1/models?ticket={made}").status_code == 401
    assert refused(server, PATH, headers={"Authorization": f"Bearer {made}"}) == 401
    assert refused(server, PATH, subprotocols=["chat", f"lmx-key.{made}"]) == 401


@pytest.mark.parametrize("path", [PATH, "/v1/responses"])
def test_a_key_is_no_ticket(server: LiveServer, path: str) -> None:
    keys = f"{server.url}/admin/keys"
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    name = f"stored-{path.rpartition('/')[2]}"
    made = httpx.post(keys, json={"name": name}, headers=headers, timeout=30).json()
    with WsClient(server.url, path, headers={"X-Api-Key": made["secret"]}):
        pass
    for key in (OPERATOR, BOT, made["secret"]):
        assert refused(server, f"{path}?ticket={key}") == 401
        assert refused(server, path, subprotocols=["chat", f"lmx-ticket.{key}"]) == 401


def test_a_key_in_a_tickets_place_counts_as_a_wrong_one(tmp_path: Path) -> None:
    security = {"auth_failures_per_minute": 2}
    with sim_server(tmp_path, SCRIPTS, access={"keys": KEYS}, security=security) as strict:
        asked = [refused(strict, f"{PATH}?ticket={BOT}") for _ in range(3)]
    assert asked == [401, 401, 429]


def test_who_gets_none(server: LiveServer) -> None:
    assert asked(server, "sk-wrong").status_code == 401
    assert asked(server, NARROW).status_code == 403
    assert httpx.post(f"{server.url}/v1/ws/tickets").status_code == 401
    headers = {"Authorization": f"Bearer {BOT}"}
    body = {"ttl": 3600}
    reply = httpx.post(f"{server.url}/v1/ws/tickets", headers=headers, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "ttl")


def test_a_pages_ticket_is_for_that_page(server: LiveServer) -> None:
    made = f"{PATH}?ticket={ticket(server, **PAGE)}"
    assert refused(server, made, headers={"Origin": "http://localhost:4000"}) == 401
    assert refused(server, made, headers=PAGE) == 401, "it was shown"
    made = f"{PATH}?ticket={ticket(server, **PAGE)}"
    with WsClient(server.url, made, headers=PAGE):
        pass


def test_the_end_of_the_key_ends_ticket_and_socket(server: LiveServer) -> None:
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    keys = f"{server.url}/admin/keys"
    made = httpx.post(keys, json={"name": "short"}, headers=headers, timeout=30).json()
    first, second = (ticket(server, made["secret"]) for _ in range(2))
    with WsClient(server.url, f"{PATH}?ticket={first}") as client:
        client.ask("a")
        assert client.until("a")["type"] == "chat.done"
        gone = httpx.delete(f"{keys}/{made['id']}", headers=headers, timeout=30)
        assert gone.status_code == 200, gone.text
        client.ask("b")
        assert client.until("b")["error"]["code"] == "invalid_api_key"
    assert refused(server, f"{PATH}?ticket={second}") == 401


def test_a_flood_is_refused_and_costs_others_nothing(server: LiveServer) -> None:
    replies = [asked(server, OPERATOR) for _ in range(PER_KEY + 3)]
    statuses = [reply.status_code for reply in replies]
    assert statuses[-3:] == [429] * 3
    assert 1 <= int(replies[-1].headers["retry-after"]) <= TICKET_S
    assert replies[-1].json()["error"]["code"] == "too_many_tickets"
    assert ticket(server, BOT)
    wrong = [refused(server, f"{PATH}?ticket={number}") for number in range(50)]
    assert set(wrong) == {401}


def test_a_sound_key_goes_before_a_ticket(server: LiveServer) -> None:
    made = ticket(server)
    with WsClient(server.url, f"{PATH}?ticket={made}", headers={"X-Api-Key": BOT}):
        pass
    with WsClient(server.url, f"{PATH}?ticket={made}"):
        pass


def test_without_keys_a_ticket_is_not_needed_and_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with sim_server(tmp_path_factory.mktemp("open"), SCRIPTS) as server:
        reply = httpx.post(f"{server.url}/v1/ws/tickets")
        assert reply.status_code == 201
        offered = ["chat", f"lmx-ticket.{reply.json()['ticket']}"]
        with WsClient(server.url, PATH, subprotocols=offered) as client:
            assert client.connection.subprotocol == "chat"
