"""A hostile or confused model cannot make the splitter slow: cost grows with the length."""

import time

import pytest

from opta_lmx.codec.answer import Answer

SMALL, LARGE = 125_000, 1_000_000
BUDGET = 3.0 * LARGE / SMALL
"""Quadratic work would grow by `(LARGE / SMALL) ** 2` = 64 times."""


def cpu_seconds(dialect: str | None, stop: tuple[str, ...], text: str, piece: int) -> float:
    data = text.encode()
    answer = Answer(stop, dialect)
    begun = time.process_time()
    for start in range(0, len(data), piece):
        answer.feed(data[start : start + piece])
    answer.finish("stop")
    return time.process_time() - begun


@pytest.mark.parametrize(
    ("dialect", "stop", "prefix", "unit", "piece"),
    [
        ("hermes", (), "", "<tool_call>", LARGE),
        ("hermes", (), '<tool_call>{"name":"', "</tool_call>", 8),
        ("hermes", (), "", '<tool_call>{"name":"f,"}</tool_call>', LARGE),
        ("hermes", (), "<tool_call>", "[", LARGE),
        ("json", (), '{"name":', "{", 8),
        ("json", (), "", "[TOOL_CALLS]", LARGE),
        (None, ("a" * 1000 + "b", "aab"), "", "a", 8),
    ],
    ids=["openings", "closings", "lost-quotes", "brackets", "braces", "marks", "stops"],
)
def test_cost_grows_with_the_length(
    dialect: str | None, stop: tuple[str, ...], prefix: str, unit: str, piece: int
) -> None:
    def measure(size: int) -> float:
        return cpu_seconds(dialect, stop, prefix + unit * (size // len(unit)), piece)

    attempts = (measure(LARGE) < BUDGET * max(measure(SMALL), 0.005) for _ in range(3))
    assert any(attempts)
