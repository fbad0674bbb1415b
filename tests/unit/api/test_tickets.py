"""Tickets: once, soon, for the page that asked, and no more of them than there may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.credentials import protocol_beside_key, shown_ticket
from opta_lmx.api.tickets import IN_ALL, PER_KEY, TICKET_S, Tickets
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from tests.support.clocks import HandClock

BOT, OTHER = Principal(tenant="ours", key="bot"), Principal(tenant="theirs", key="bot")
PAGE = "https://ui.example"


class Desk:
    """Tickets on a clock that only the test moves."""

    def __init__(self) -> None:
        self.clock = HandClock(1000.0)
        self.tickets = Tickets(self.clock)

    def make(self, owner: Principal = BOT, origin: str | None = None) -> str:
        return self.tickets.make(owner, lambda: owner, 5, origin)

    def owner(self, ticket: str, origin: str | None = None) -> Principal | None:
        held = self.tickets.take(ticket, origin)
        return None if held is None else held.owner("")


def test_a_ticket_opens_once() -> None:
    desk = Desk()
    ticket = desk.make()
    assert desk.owner(ticket) == BOT
    assert desk.owner(ticket) is None
    assert len(desk.tickets) == 0


def test_a_ticket_has_256_bits_and_goes_into_an_address() -> None:
    desk = Desk()
    made = {desk.make() for _ in range(PER_KEY)}
    assert len(made) == PER_KEY
    assert all(len(one) == 43 and one.replace("-", "").replace("_", "").isalnum() for one in made)


@pytest.mark.parametrize(("passed", "good"), [(0, True), (TICKET_S - 0.1, True), (TICKET_S, False)])
def test_a_ticket_lasts_as_long_as_is_said(passed: float, good: bool) -> None:
    desk = Desk()
    ticket = desk.make()
    desk.clock.now += passed
    assert (desk.owner(ticket) == BOT) is good
    assert len(desk.tickets) == 0


@pytest.mark.parametrize(
    ("asked", "shown", "good"),
    [
        (None, None, True),
        (None, PAGE, True),
        (PAGE, PAGE, True),
        (PAGE, None, False),
        (PAGE, "https://other.example", False),
        (PAGE, PAGE + ":444", False),
        (PAGE, "null", False),
    ],
)
def test_a_pages_ticket_is_for_that_page(asked: str | None, shown: str | None, good: bool) -> None:
    desk = Desk()
    ticket = desk.make(origin=asked)
    assert (desk.owner(ticket, shown) == BOT) is good
    assert desk.owner(ticket, asked) is None, "shown once, it is over"


def test_one_key_may_have_so_many() -> None:
    desk = Desk()
    first = desk.make()
    desk.clock.now += 10
    for _ in range(PER_KEY - 1):
        desk.make()
    with pytest.raises(LmxError) as caught:
        desk.make()
    error = caught.value
    assert (error.kind, error.code) == (ErrorKind.RATE_LIMITED, "too_many_tickets")
    assert error.retry_after == pytest.approx(TICKET_S - 10)
    assert desk.make(OTHER)
    assert desk.owner(first) == BOT
    assert desk.make()
    desk.clock.now += TICKET_S
    assert [desk.make() for _ in range(PER_KEY)]
    assert len(desk.tickets) == PER_KEY


def test_all_keys_together_may_have_so_many() -> None:
    desk = Desk()
    for number in range(IN_ALL):
        desk.make(Principal(key=f"key-{number // PER_KEY}"))
    with pytest.raises(LmxError) as caught:
        desk.make(Principal(key="late"))
    assert caught.value.retry_after == pytest.approx(TICKET_S)
    desk.clock.now += TICKET_S
    assert desk.make(Principal(key="late"))
    assert len(desk.tickets) == 1


def test_the_end_of_the_key_ends_its_ticket() -> None:
    desk = Desk()

    def gone() -> Principal:
        raise LmxError(ErrorKind.UNAUTHENTICATED, "gone")

    ticket = desk.tickets.make(BOT, gone, None, None)
    held = desk.tickets.take(ticket, None)
    assert held is not None
    with pytest.raises(LmxError, match="gone"):
        held.owner("")


@given(st.text())
def test_what_is_no_ticket_opens_nothing(text: str) -> None:
    desk = Desk()
    made = desk.make()
    assert desk.owner(text) is None
    assert desk.owner(made) == BOT


def scope(query: bytes = b"", *protocols: str, kind: str = "websocket") -> dict[str, object]:
    return {"type": kind, "query_string": query, "subprotocols": list(protocols)}


@pytest.mark.parametrize(
    ("shown", "ticket"),
    [
        (scope(b"ticket=abc"), "abc"),
        (scope(b"a=b&ticket=abc&c=d"), "abc"),
        (scope(b"", "chat", "lmx-ticket.abc"), "abc"),
        (scope(b"ticket=xyz", "chat", "lmx-ticket.abc"), "abc"),
        (scope(b"ticket=abc&ticket=abc"), ""),
        (scope(b"ticket="), ""),
        (scope(b"&".join(b"a=%d" % n for n in range(99)) + b"&ticket=abc"), ""),
        (scope(b"\xff%ff=%zz"), ""),
        (scope(b"ticket=abc", kind="http"), ""),
    ],
)
def test_where_a_ticket_is_shown(shown: dict[str, object], ticket: str) -> None:
    assert shown_ticket(shown) == ticket


def test_a_protocol_is_answered_beside_a_ticket() -> None:
    assert protocol_beside_key(scope(b"", "lmx-ticket.abc", "chat")) == "chat"
    with pytest.raises(LmxError) as caught:
        shown_ticket(scope(b"", "lmx-ticket.abc"))
    assert caught.value.code == "invalid_header"


@given(st.binary(max_size=200))
def test_no_address_breaks_it(query: bytes) -> None:
    assert isinstance(shown_ticket(scope(query)), str)
