"""Certificates of clients over real TLS: modes, certificates, HTTP and WebSocket, and keys."""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus, WebSocketException

from tests.support.certificates import Authority, Shown, section, trusting
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

MODES = ["off", "optional", "required"]
SHOWN = ["none", "foreign", "expired", "unmapped", "right"]
KEYS = {"t1": "key-of-tenant-one", "t2": "key-of-tenant-two"}
ACCESS = {"keys": [{"name": f"k-{one}", "key": key, "tenant": one} for one, key in KEYS.items()]}
MAPPING: list[dict[str, Any]] = [
    {"uri": "spiffe://opta/tenant/t1/*", "tenant": "t1"},
    {"uri": "spiffe://opta/tenant/t2/bot-1", "tenant": "t2", "name": "two"},
    {"subject": "CN=watcher", "tenant": "t2", "name": "watcher", "scopes": ["metrics"]},
]
REFUSED = "handshake"


class Place:
    """Servers by mode, and certificates by name."""

    def __init__(self, folder: Path) -> None:
        self.ours = Authority(folder / "ours")
        foreign = Authority(folder / "foreign")
        self.certificate = self.ours.server()
        self.shown: dict[str, Shown | None] = {
            "none": None,
            "foreign": foreign.bot("t1", "bot-1"),
            "expired": self.ours.bot("t1", "late", days_ago=2),
            "unmapped": self.ours.bot("t3", "bot-1"),
            "right": self.ours.bot("t1", "bot-1"),
            "other": self.ours.bot("t2", "bot-1"),
            "watcher": self.ours.make("watcher", uri="spiffe://elsewhere/x"),
            "server's": self.certificate,
        }
        self.servers: dict[str, LiveServer] = {}

    def context(self, shown: str, **more: Any) -> ssl.SSLContext:
        return trusting(self.ours.file, self.shown[shown], **more)

    def tls(self, mode: str) -> dict[str, Any]:
        if mode == "off":
            return section(self.certificate)
        asked = {"client_ca": str(self.ours.file), "client_certificates": mode}
        return section(self.certificate, mapping=MAPPING, **asked)

    def http(self, mode: str, shown: str, key: str = "", path: str = "/v1/models") -> int | str:
        """The status of a reply, or that the handshake was refused."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(verify=self.context(shown)) as client:
            try:
                return client.get(self.servers[mode].url + path, headers=headers).status_code
            except httpx.TransportError:
                return REFUSED

    def websocket(self, mode: str, shown: str, key: str = "") -> int | str:
        """As `http`; 200 for a request that was answered."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with WsClient(
                self.servers[mode].url,
                headers=headers,
                ssl=self.context(shown),
                server_hostname="localhost",
            ) as socket:
                socket.ask("a")
                return 200 if socket.until("a")["type"] == "chat.done" else 0
        except InvalidStatus as refused:
            return refused.response.status_code
        except (OSError, EOFError, WebSocketException):
            return REFUSED


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("certificates"))
    with contextlib.ExitStack() as stack:
        for mode in MODES:
            home = tmp_path_factory.mktemp(mode)
            running = sim_server(home, {"m": {}}, tls=made.tls(mode), access=ACCESS)
            made.servers[mode] = stack.enter_context(running)
        yield made


def expected(mode: str, shown: str, *, key: bool) -> int | str:
    """What becomes of a connection."""
    if mode != "off" and shown in ("foreign", "expired"):
        return REFUSED
    if mode == "required" and shown == "none":
        return REFUSED
    known = mode != "off" and shown == "right"
    return 200 if known or key else 401


@pytest.mark.parametrize("key", [False, True], ids=["no key", "key"])
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("mode", MODES)
def test_the_matrix(place: Place, mode: str, shown: str, key: bool) -> None:
    text = KEYS["t1"] if key else ""
    wanted = expected(mode, shown, key=key)
    assert place.http(mode, shown, text) == wanted
    assert place.websocket(mode, shown, text) == wanted


@pytest.mark.parametrize("version", [False, True], ids=["1.2", "1.3"])
@pytest.mark.parametrize("shown", ["none", "foreign", "expired"])
def test_required_is_required_in_each_version(place: Place, shown: str, version: bool) -> None:
    url = place.servers["required"].url
    with (
        httpx.Client(verify=place.context(shown, newest=version)) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get(f"{url}/healthz")
    with httpx.Client(verify=place.context("right", newest=version)) as client:
        assert client.get(f"{url}/v1/models").status_code == 200


def test_a_certificate_for_servers_is_none_for_clients(place: Place) -> None:
    assert place.http("optional", "server's", KEYS["t1"]) == REFUSED


@pytest.mark.parametrize("ask", ["http", "websocket"])
def test_a_key_beside_a_certificate_is_of_the_same_tenant(place: Place, ask: str) -> None:
    asked = getattr(place, ask)
    for mode in ("optional", "required"):
        assert asked(mode, "right", KEYS["t1"]) == 200
        assert asked(mode, "right", KEYS["t2"]) == 403
        assert asked(mode, "other", KEYS["t1"]) == 403
        assert asked(mode, "right", "wrong") == 401


def test_what_is_open_is_open_to_every_certificate(place: Place) -> None:
    for mode, shown in (("optional", "none"), ("required", "unmapped")):
        assert place.http(mode, shown, path="/healthz") == 200


def test_a_certificate_has_the_scopes_of_its_rule(place: Place) -> None:
    assert place.http("required", "watcher", path="/metrics") == 200
    assert place.http("required", "watcher") == 403
    assert place.http("required", "right", path="/admin/status") == 403
    assert place.http("required", "right", path="/metrics") == 403


def test_tenants_see_their_own(place: Place) -> None:
    url = f"{place.servers['required'].url}/v1/responses"
    with (
        httpx.Client(verify=place.context("right")) as one,
        httpx.Client(verify=place.context("other")) as two,
    ):
        made = one.post(url, json={"model": "m", "input": "hello", "store": True})
        assert made.status_code == 200, made.text
        where = f"{url}/{made.json()['id']}"
        assert one.get(where).status_code == 200
        assert two.get(where).status_code == 404
        by_key = {"Authorization": f"Bearer {KEYS['t1']}"}
        assert one.get(where, headers=by_key).status_code == 200


def test_who_sends_a_gateways_header_is_who_the_certificate_says(place: Place) -> None:
    told = {"X-Opta-Client-San": "spiffe://opta/tenant/t2/bot-1"}
    url = f"{place.servers['required'].url}/v1/responses"
    with httpx.Client(verify=place.context("right")) as one:
        made = one.post(url, json={"model": "m", "input": "hi", "store": True}, headers=told)
        where = f"{url}/{made.json()['id']}"
        assert one.get(where).status_code == 200
    with httpx.Client(verify=place.context("unmapped")) as client:
        assert client.get(where, headers=told).status_code == 401
