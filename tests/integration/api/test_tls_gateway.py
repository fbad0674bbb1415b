"""A proxy whose own certificate is checked tells of its clients'; nobody else can."""

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from opta_lmx.security.tls.making import gateway_uri
from tests.support.certificates import Authority, section, trusting
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

KEY = "key-of-tenant-one"
SAN, SUBJECT = "X-Opta-Client-San", "X-Opta-Client-Subject"
T1, T2 = "spiffe://opta/tenant/t1/a", "spiffe://opta/tenant/t2/b"


class Place:
    """A server behind a gateway, which knows bots of two tenants."""

    def __init__(self, authority: Authority, server: LiveServer) -> None:
        self.url = server.url
        self.contexts = {
            "gateway": trusting(authority.file, authority.make("gw", uri=gateway_uri("edge"))),
            "by dns": trusting(
                authority.file, authority.make("gw2", uri="spiffe://x/y", hosts=("gw.example",))
            ),
            "bot": trusting(authority.file, authority.bot("t1", "direct")),
            "stranger": trusting(authority.file, authority.bot("t9", "x")),
            # As the gateway, but for the end of the name.
            "almost": trusting(authority.file, authority.make("gw3", uri=gateway_uri("edge2"))),
        }

    def ask(self, who: str, headers: list[tuple[str, str]], path: str = "/v1/models") -> int:
        with httpx.Client(verify=self.contexts[who]) as client:
            return client.get(self.url + path, headers=headers).status_code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    tls = section(
        authority.server(),
        client_ca=str(authority.file),
        client_certificates="required",
        gateway=[gateway_uri("edge"), "gw.example"],
        mapping=[
            {"uri": "spiffe://opta/tenant/t1/*", "tenant": "t1"},
            {"uri": "spiffe://opta/tenant/t2/*", "tenant": "t2"},
            {"dns": "bot.example", "tenant": "t1", "name": "dns"},
            {"subject": "CN=bot,O=t1", "tenant": "t1", "name": "subject"},
            {"uri": gateway_uri("*"), "tenant": "t2"},
            {"subject": "CN=root,O=t1", "name": "root", "tenant": "t1", "scopes": ["admin"]},
        ],
    )
    keys = {"keys": [{"name": "one", "key": KEY, "tenant": "t1"}]}
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, {"m": {}}, tls=tls, access=keys) as server:
        yield Place(authority, server)


BEARER = ("Authorization", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("who", "headers", "status"),
    [
        ("gateway", [(SAN, T1)], 200),
        ("by dns", [(SAN, T1)], 200),
        ("gateway", [(SAN, "bot.example")], 200),
        ("gateway", [(SAN, "BOT.example")], 200),
        ("gateway", [(SUBJECT, "CN=bot,O=t1")], 200),
        ("gateway", [(SAN, "spiffe://opta/tenant/t3/a"), (SUBJECT, "CN=bot,O=t1")], 200),
        ("gateway", [], 401),
        ("gateway", [(SAN, "")], 401),
        ("gateway", [(SAN, "spiffe://opta/tenant/t3/a")], 401),
        ("gateway", [(SAN, "spiffe://opta/tenant/t1/")], 401),
        ("gateway", [(SAN, "spiffe://opta/tenant/t1/a b")], 401),
        ("gateway", [(SAN, "spiffe://opta/tenant/t1/../t2/a")], 401),
        ("gateway", [(SAN, f"{T1}, {T2}")], 401),
        ("gateway", [(SAN, T1), (SAN, T2)], 400),
        ("gateway", [(SAN, T1), (SAN, T1)], 400),
        ("gateway", [(SUBJECT, "x" * 513)], 400),
        # What only the gateway itself could be is told of nobody but its client.
        ("gateway", [BEARER], 200),
        ("gateway", [(SAN, T1), BEARER], 200),
        ("gateway", [(SAN, T2), BEARER], 403),
        ("gateway", [("X-Opta-Client-Other", T1)], 401),
        # Others are who they are, whatever they write.
        ("bot", [(SAN, T2)], 200),
        ("bot", [(SAN, T2), BEARER], 200),
        ("bot", [(SAN, T1), (SAN, T2)], 200),
        ("stranger", [(SAN, T1)], 401),
        ("stranger", [(SAN, T2), BEARER], 200),
        ("almost", [(SAN, T1), BEARER], 403),
    ],
)
def test_whose_word_counts(
    place: Place, who: str, headers: list[tuple[str, str]], status: int
) -> None:
    assert place.ask(who, headers) == status


def test_a_websocket_through_the_gateway(place: Place) -> None:
    options = {"ssl": place.contexts["gateway"], "server_hostname": "localhost"}
    with WsClient(place.url, headers={SAN: T1}, **options) as socket:
        socket.ask("a")
        assert socket.until("a")["type"] == "chat.done"
    with pytest.raises(InvalidStatus) as refused:
        WsClient(place.url, headers={SAN: "spiffe://other/x"}, **options)
    assert refused.value.response.status_code == 401


def test_tenants_behind_the_gateway_see_their_own(place: Place) -> None:
    url = f"{place.url}/v1/responses"
    with contextlib.ExitStack() as stack:
        clients = {
            who: stack.enter_context(httpx.Client(verify=place.contexts[who]))
            for who in ("gateway", "bot")
        }
        body = {"model": "m", "input": "hello", "store": True}
        made = clients["gateway"].post(url, json=body, headers={SAN: T1})
        where = f"{url}/{made.json()['id']}"
        assert clients["gateway"].get(where, headers={SAN: T1}).status_code == 200
        assert clients["gateway"].get(where, headers={SAN: T2}).status_code == 404
        # A bot of the same tenant sees it; its header makes it nobody else.
        assert clients["bot"].get(where, headers={SAN: T2}).status_code == 200


def test_what_comes_through_the_gateway_is_not_from_here(place: Place) -> None:
    """The profile `loopback` lets only this machine administer; a gateway here passes others on."""
    with httpx.Client(verify=place.contexts["gateway"]) as client:
        reply = client.get(f"{place.url}/admin/status", headers={SUBJECT: "CN=root,O=t1"})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "admin_not_from_here"
