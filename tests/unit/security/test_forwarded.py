"""Whose address counts behind proxies: a table, and what no header can do."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.security.forwarded import MAX_HOPS, Networks, client_address

TRUSTED = Networks.parse(["10.0.0.0/24", "192.168.7.7", "2001:db8:a::/48"])
PROXY = "10.0.0.1"
PROXY6 = "2001:db8:a::1"
CLIENT = "203.0.113.9"
FAR = "198.51.100.1"


def found(peer: str, forwarded: Sequence[str] = (), x_forwarded_for: Sequence[str] = ()) -> str:
    return client_address(peer, forwarded, x_forwarded_for, TRUSTED)


X_TABLE = [
    # One proxy, as it is meant to be.
    (PROXY, [CLIENT], CLIENT),
    (PROXY, [f"{CLIENT}:4711"], CLIENT),
    (PROXY, [f" \t{CLIENT} "], CLIENT),
    (PROXY, ["2001:db8::1"], "2001:db8::1"),
    (PROXY, ["2001:DB8:0:0::1"], "2001:db8::1"),
    (PROXY, ["[2001:db8::1]"], "2001:db8::1"),
    (PROXY, ["[2001:db8::1]:443"], "2001:db8::1"),
    (PROXY, [f"::ffff:{CLIENT}"], CLIENT),
    (PROXY, ["::ffff:cb00:7109"], CLIENT),
    (f"::ffff:{PROXY}", [CLIENT], CLIENT),
    (PROXY6, [CLIENT], CLIENT),
    # Nobody that is trusted.
    (CLIENT, [FAR], CLIENT),
    ("::ffff:203.0.113.9", [FAR], CLIENT),
    ("10.0.1.1", [FAR], "10.0.1.1"),
    ("2001:db8:b::1", [FAR], "2001:db8:b::1"),
    ("fe80::1%eth0", [FAR], "fe80::1"),
    ("not an address", [FAR], "not an address"),
    ("", [FAR], ""),
    # Several proxies, and what clients put before them.
    (PROXY, [f"{CLIENT}, 10.0.0.2"], CLIENT),
    (PROXY, [CLIENT, "10.0.0.2"], CLIENT),
    (PROXY, [f"{FAR}, {CLIENT}"], CLIENT),
    (PROXY, [FAR, CLIENT], CLIENT),
    (PROXY, [f"{FAR}, 10.0.0.9, {CLIENT}, 10.0.0.2"], CLIENT),
    (PROXY, [f"{FAR}, ::ffff:10.0.0.9, {CLIENT}, ::ffff:10.0.0.2"], CLIENT),
    (PROXY, [f"{CLIENT}, 2001:db8:a::2, 192.168.7.7"], CLIENT),
    (PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    (PROXY, [f"127.0.0.1, {CLIENT}"], CLIENT),
    # Nothing, or nonsense: it ends at the last that is trusted.
    (PROXY, [], PROXY),
    (PROXY, [""], PROXY),
    (PROXY, [" , ,"], PROXY),
    (PROXY, [f"{CLIENT}, ,"], CLIENT),
    (PROXY, ["unknown"], PROXY),
    (PROXY, [f"{CLIENT}, nonsense"], PROXY),
    (PROXY, [f"{CLIENT}, nonsense, 10.0.0.2"], "10.0.0.2"),
    (PROXY, ["203.0.113.09"], PROXY),
    (PROXY, ["203.0.113.9:x"], PROXY),
    (PROXY, ["203.0.113"], PROXY),
    (PROXY, ["3405803785"], PROXY),
    (PROXY, ["0x7f.0.0.1"], PROXY),
    (PROXY, ["fe80::1%eth0"], PROXY),
    (PROXY, ["[2001:db8::1"], PROXY),
    (PROXY, ["2001:db8::1]"], PROXY),
    (PROXY, ["[2001:db8::1]443"], PROXY),
    (PROXY, ["evil.example"], PROXY),
    (PROXY, [f'"{CLIENT}"'], PROXY),
]


@pytest.mark.parametrize(("peer", "headers", "expected"), X_TABLE)
def test_x_forwarded_for(peer: str, headers: list[str], expected: str) -> None:
    assert found(peer, x_forwarded_for=headers) == expected


FORWARDED_TABLE = [
    (PROXY, [f"for={CLIENT}"], CLIENT),
    (PROXY, [f"FOR={CLIENT};Proto=https;by={PROXY}"], CLIENT),
    (PROXY, [f"proto=https; for={CLIENT} ;host=h"], CLIENT),
    (PROXY, [f'for="{CLIENT}:4711"'], CLIENT),
    (PROXY, [f"for={CLIENT}:4711"], CLIENT),
    (PROXY, ['for="[2001:db8::1]"'], "2001:db8::1"),
    (PROXY, ['for="[2001:db8::1]:4711"'], "2001:db8::1"),
    (PROXY, ['for="[2001:db8::1]:_port"'], "2001:db8::1"),
    (PROXY, ['for="[::ffff:203.0.113.9]"'], CLIENT),
    (PROXY, [r'for="203\.0.113.9"'], CLIENT),
    (PROXY, [f'for={CLIENT};host="a, b\\", c"'], CLIENT),
    (PROXY, [f'for={FAR}, for={CLIENT}, for="[2001:db8:a::9]:1"'], CLIENT),
    (PROXY, [f"for={FAR}", f"for={CLIENT}"], CLIENT),
    # A client's open quotes do not swallow what the proxy appends.
    (PROXY, [f'for="{FAR}, for={CLIENT}'], CLIENT),
    (PROXY, [f'for={FAR};by="x, for={CLIENT}'], CLIENT),
    (PROXY, [f'for={FAR};by="x\\", for={CLIENT};by="y"'], CLIENT),
    (PROXY, [f'", for="{CLIENT}:1"'], CLIENT),
    # Hidden, malformed, or nothing of addresses.
    (PROXY, ["for=unknown"], PROXY),
    (PROXY, ["for=_hidden"], PROXY),
    (PROXY, ['for="_hidden:80"'], PROXY),
    (PROXY, [f"for={CLIENT}, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
    (PROXY, ["proto=https"], PROXY),
    (PROXY, [f"for={CLIENT}, proto=https"], PROXY),
    (PROXY, [f"for={CLIENT};for={FAR}"], PROXY),
    (PROXY, [f"for = {CLIENT}"], PROXY),
    (PROXY, [f"for={CLIENT};;"], PROXY),
    (PROXY, [f'for="{CLIENT}'], PROXY),
    (PROXY, [CLIENT], PROXY),
    (PROXY, [";;;"], PROXY),
    (PROXY, ["for="], PROXY),
    (CLIENT, [f"for={FAR}"], CLIENT),
]


@pytest.mark.parametrize(("peer", "headers", "expected"), FORWARDED_TABLE)
def test_forwarded(peer: str, headers: list[str], expected: str) -> None:
    assert found(peer, headers) == expected


@pytest.mark.parametrize(
    ("forwarded", "x_forwarded_for"),
    [(f"for={CLIENT}", CLIENT), (f"for={FAR}, for={CLIENT}", CLIENT), ("proto=https", CLIENT)],
)
def test_both_headers_may_say_the_same(forwarded: str, x_forwarded_for: str) -> None:
    assert found(PROXY, [forwarded], [x_forwarded_for]) == CLIENT


@pytest.mark.parametrize(
    ("forwarded", "x_forwarded_for"),
    [
        (f"for={FAR}", CLIENT),
        (f"for={CLIENT}", FAR),
        (f"for={CLIENT}", f"{CLIENT}, {FAR}"),
        ("for=unknown", CLIENT),
        (f"for={CLIENT}", "unknown"),
        (";;;", CLIENT),
    ],
)
def test_headers_that_contradict_each_other_are_refused(
    forwarded: str, x_forwarded_for: str
) -> None:
    with pytest.raises(LmxError) as refused:
        found(PROXY, [forwarded], [x_forwarded_for])
    assert (refused.value.kind, refused.value.code) == (
        ErrorKind.INVALID_REQUEST,
        "forwarded_conflict",
    )
    assert found(CLIENT, [forwarded], [x_forwarded_for]) == CLIENT


def test_so_many_hops_are_followed() -> None:
    own = ["10.0.0.2"] * (MAX_HOPS - 1)
    assert found(PROXY, x_forwarded_for=[", ".join([CLIENT, *own])]) == CLIENT
    assert found(PROXY, x_forwarded_for=[", ".join([CLIENT, *own, "10.0.0.3"])]) == "10.0.0.2"


# Headers as hostile clients write them: fragments of sound ones, and anything else.
FRAGMENTS = st.sampled_from(
    [CLIENT, FAR, PROXY, PROXY6, "for=", "by=", "proto=https", '"', "\\", ",", ";", " ", "[", "]",
     ":", "_x", "unknown", "::1", "=", "\t"]
)  # fmt: skip
HEADER = st.lists(FRAGMENTS, max_size=12).map("".join) | st.text(st.characters(max_codepoint=255))
HEADERS = st.lists(HEADER, max_size=3)
STRANGERS = st.ip_addresses().filter(lambda address: address not in TRUSTED).map(str)


@given(STRANGERS, HEADERS, HEADERS)
def test_no_header_of_a_stranger_changes_anything(
    peer: str, forwarded: list[str], x_forwarded_for: list[str]
) -> None:
    assert client_address(peer, forwarded, x_forwarded_for, Networks()) == found(peer)
    assert found(peer, forwarded, x_forwarded_for) == found(peer)


def appended(headers: list[str], element: str, *, joined: bool) -> list[str]:
    """What a proxy makes of a client's headers, in the same line or in one of its own."""
    if joined and headers:
        return [*headers[:-1], f"{headers[-1]}, {element}"]
    return [*headers, element]


@given(HEADERS, HEADERS, st.booleans(), st.sampled_from(["x", "forwarded", "both"]))
def test_a_client_cannot_move_itself(
    forwarded: list[str], x_forwarded_for: list[str], joined: bool, writes: str
) -> None:
    if writes != "x":
        forwarded = appended(forwarded, f'for="{CLIENT}:1";proto=https', joined=joined)
    if writes != "forwarded":
        x_forwarded_for = appended(x_forwarded_for, CLIENT, joined=joined)
    try:
        end = found(PROXY, forwarded, x_forwarded_for)
    except LmxError as refused:
        end = refused.code
    # Refused is nobody else, either.
    assert end in ((CLIENT,) if writes == "both" else (CLIENT, "forwarded_conflict"))


@given(HEADERS, st.sampled_from([PROXY6, "192.168.7.7"]))
def test_nor_behind_two_proxies(sent: list[str], second: str) -> None:
    written = appended(appended(sent, CLIENT, joined=True), second, joined=True)
    assert found(PROXY, x_forwarded_for=written) == CLIENT
    named = [f'for="[{second}]"' if ":" in second else f"for={second}"]
    told = appended(appended(sent, f"for={CLIENT}", joined=True), named[0], joined=True)
    assert found(PROXY, told) == CLIENT
