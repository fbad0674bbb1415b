"""Networks as operators write them."""

import pytest

from opta_lmx.security.addresses import Networks, address_of, peer_address


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
        ("10.0.0.0/24", "10.0.0.255", "10.0.1.0"),
        ("10.0.0.0/24", "::ffff:10.0.0.5", "::ffff:10.0.1.5"),
        ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
        ("10.0.0.0/255.255.255.0", "10.0.0.255", "10.0.1.0"),
        ("::1", "0:0::1", "::2"),
        ("::ffff:10.0.0.0/120", "10.0.0.9", "10.0.1.9"),
        ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("8000::/1", "ffff::1", "203.0.113.1"),
    ],
)
def test_a_network_holds_its_addresses(network: str, inside: str, outside: str) -> None:
    networks = Networks.parse(["192.0.2.1", network])
    assert networks
    assert address_of(inside) in networks
    assert address_of(outside) not in networks
    assert None not in networks


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "*", "proxy", "localhost", "10.0.0.0/33", "10.0.0.1/24", "10.0.0", "10", "1/8",
        "10.0.0.0/255.0.255.0", "10.0.0.0/+8", "10.0.0.0/8 ", "10.0.0.0/", "/8", "[::1]",
        "::1%lo", "fe80::%eth0/64", "2001:db8::/129", "0.0.0.0/0", "::/0", "::ffff:0:0/96",
        "10.0.0.1,10.0.0.2", "010.0.0.1", "10.0.0.1:80",
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|every address") as refused:
        Networks.parse(["10.0.0.1", text])
    assert f"'{text}'" in str(refused.value)


def test_no_network_is_an_empty_set() -> None:
    assert not Networks()
    assert not Networks.parse([])
    assert address_of("127.0.0.1") not in Networks()


def test_zones_are_of_the_kernel_alone() -> None:
    assert str(peer_address("fe80::1%eth0")) == "fe80::1"
    assert address_of("fe80::1%eth0") is None
