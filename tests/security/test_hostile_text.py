"""Texts that make careless patterns slow: what a long one takes grows with its length alone.

What models answer has tests of its own (tests/unit/codec/test_linear_time.py); here is all else
that is searched with a pattern: templates, names, headers, lines of the log, addresses.
"""

import contextlib
import time
from collections.abc import Callable

import pytest

from opta_lmx.codec.reasoning import style_for_template
from opta_lmx.codec.tools.dialects import speech_for_template
from opta_lmx.core.errors import LmxError
from opta_lmx.models.hub_files import HubFile, choose, parse_ref, quantisation_in
from opta_lmx.models.names import valid_name
from opta_lmx.security.addresses import Networks
from opta_lmx.security.fetch_urls import parse_url
from opta_lmx.security.forwarded import client_address
from opta_lmx.security.redaction import Redactor

SMALL, LARGE = 60_000, 960_000
BUDGET = 3.0 * LARGE / SMALL
"""Quadratic work would grow by `(LARGE / SMALL) ** 2` = 256 times."""
PROXY = "127.0.0.1"


def forwarded(value: str) -> None:
    client_address(PROXY, [value], [], Networks.parse([PROXY]))


def x_forwarded(value: str) -> None:
    client_address(PROXY, [], [value], Networks.parse([PROXY]))


def pick(text: str) -> None:
    choose(parse_ref("org/name"), [HubFile(text + ".gguf", 1), HubFile("a-00001-of-00001.gguf", 1)])


READERS: dict[str, Callable[[str], object]] = {
    "template": speech_for_template,
    "thinking": lambda text: style_for_template(text, lambda _: False),
    "reference": parse_ref,
    "choice": pick,
    "quantisation": quantisation_in,
    "name": valid_name,
    "mask": Redactor(["sk-known-secret"]).mask,
    "forwarded": forwarded,
    "x-forwarded-for": x_forwarded,
    "url": parse_url,
}
UNITS = (
    "a",
    "-",
    ".",
    "a/",
    "a-",
    "-Q4",
    "-q4_k_",
    "{%",
    "{{ tools ",
    "{% tools",
    "%}",
    "<think>",
    "</think",
    "<tool_call>",
    "bearer ",
    "lmx_aaaaaaaa_",
    "authorization: ",
    "x-api-key=",
    '"',
    '\\"',
    "for=",
    'for="',
    "for=_a;",
    "1.1.1.1, ",
    ",",
    " ",
    "%41",
    "http://",
    "@",
    "[::",
    "00001-of-00001-",
    "\u00e9",
)


def seconds(read: Callable[[str], object], text: str) -> float:
    begun = time.process_time()
    with contextlib.suppress(LmxError, ValueError):
        read(text)
    return time.process_time() - begun


def is_slow(read: Callable[[str], object], unit: str) -> bool:
    """Whether a reader takes more than its share for a long text, every time of three."""

    def measure(size: int) -> float:
        return seconds(read, unit * (size // len(unit)))

    return all(measure(LARGE) >= BUDGET * max(measure(SMALL), 0.002) for _ in range(3))


@pytest.mark.parametrize("name", sorted(READERS))
def test_time_grows_with_the_length(name: str) -> None:
    read = READERS[name]
    assert [unit for unit in UNITS if is_slow(read, unit)] == []


def test_the_measure_sees_what_is_quadratic() -> None:
    def quadratic(text: str) -> None:
        for start in range(0, len(text), 60):
            text[start:].count("ab")

    assert is_slow(quadratic, "a")
