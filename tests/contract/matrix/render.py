"""Writes `docs/compatibility.md` from the rows that the contract tests prove (`make docs`)."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.contract.failures import SURFACES as FAILING
from tests.contract.failures import Surface as Failing
from tests.contract.matrix import notes
from tests.contract.matrix.extras import GROUPS
from tests.contract.matrix.model import BACKENDS, EVERYTHING, Row, Surface
from tests.contract.matrix.operators import OPERATORS
from tests.contract.matrix.surfaces import SURFACES
from tests.support.families import FAMILIES, VERIFIED, Family

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"
_MARKS = {"supported": "yes", "accepted": "accepted", "refused": "400", "by model": "by model"}
_HEAD = """# Compatibility

What happens to every field of every request, on both backends. This page is written by
`make docs` from the rows that `tests/contract/test_matrix.py` proves against a live server; a
test fails when it is stale. Fields that are in no row are refused with a 400 that names them or
what holds them (`tests/contract/test_sdk_fields.py` walks the clients' own types).

- **yes**: the field has the stated effect.
- **accepted**: it has a stated meaning that changes nothing here.
- **by model**: what it asks for needs a model that can; all others refuse it by name.
- **400**: refused by name; nothing is dropped in silence.
"""


def document() -> str:
    """The whole page."""
    lines = [line for surface in SURFACES for line in _fields(surface)]
    for part in (
        _socket,
        _headers,
        _failures,
        _budgets,
        _promises,
        _extras,
        _families,
        _operators,
        _rest,
    ):
        lines += part()
    return "\n".join([_HEAD, *lines])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |"
    yield ""


def _title(text: str, below: str = "") -> Iterator[str]:
    yield f"## {text}"
    yield ""
    if below:
        yield below
        yield ""


def _fields(surface: Surface) -> Iterator[str]:
    yield from _title(surface.name, f"`POST {surface.path}`. Drift is watched by {surface.watch}.")
    yield from _table(("field", *BACKENDS, "meaning"), map(_field, surface.rows))


def _field(row: Row) -> tuple[str, ...]:
    marks = (_MARKS[row.status_on(backend)] for backend in BACKENDS)
    inside = "" if EVERYTHING not in row.parts else " And all that is in it."
    return (f"`{row.field}`", *marks, row.meaning + inside)


def _socket() -> Iterator[str]:
    yield from _title(
        "Chat over WebSocket",
        "`/v1/chat/stream`; a `chat.request` has the fields of a chat completion, proved above: "
        "one parser reads both. `/v1/responses` takes a WebSocket too, with `response.create` "
        "messages that have the fields of a response.",
    )
    frames = ((f"`{kind}`", sender, text) for kind, sender, text in notes.FRAMES)
    yield from _table(("frame", "from", "meaning"), frames)


def _headers() -> Iterator[str]:
    yield from _title("Headers", "Unknown headers are ignored.")
    yield from _table(("header", "where", "meaning"), notes.HEADERS)


def _failures() -> Iterator[str]:
    yield from _title(
        "Failures",
        "Refused before headers wherever it can be; in a stream that has begun, by an event its "
        "client understands. Proved by `tests/contract/test_failures.py` and, over WebSocket, "
        "`test_failures_websocket.py`.",
    )
    head = ("route", "line full", "model loads too long", "worker dies", "in a stream", "overflow")
    yield from _table(head, map(_failure, FAILING))
    yield "Everywhere: an unknown field is a 400 naming it, an unknown model a 404 listing what"
    yield "might have been meant, a missing key a 401."
    yield ""


def _failure(surface: Failing) -> tuple[str, ...]:
    return (
        f"`{surface.path}`",
        "429",
        str(surface.unavailable),
        "500" if surface.generates else "nothing is generated",
        "typed error" if surface.stream_error else "not streamed",
        f"400 “…{surface.overflow}…”" if surface.overflow else "none: see its fields",
    )


def _budgets() -> Iterator[str]:
    yield from _title(
        "Budgets",
        "What a key of `access.keys` may use, exact to one token and refused before headers on "
        "every surface; both numbers stand in the message. Counting tokens costs nothing. Proved "
        "by `tests/contract/test_budgets.py` and, with real tokenizers, `test_budgets_models.py`.",
    )
    yield from _table(("bound", "beyond it", "what is counted"), notes.BUDGETS)


def _promises() -> Iterator[str]:
    yield from _title("Seeds and fingerprints", notes.PROMISES.rstrip())


def _extras() -> Iterator[str]:
    yield from _title(
        "What answers hold besides",
        "Keys that the clients' own types do not know; `tests/contract/test_strict_answers.py` "
        "fails on any other.",
    )
    rows = ((f"`{name}`", text) for group in GROUPS for name, text in group.items())
    yield from _table(("key", "where, and why"), rows)


def _families() -> Iterator[str]:
    yield from _title(
        "Tool calls and thinking, by model family",
        "The parser is chosen by the model's chat template, and may be set for each model. "
        "Verified: the family's published template renders calls, and the parser reads them back "
        "exactly, cut at every byte. Unverified: no published template was to be had.",
    )
    yield from _table(("family", "tool calls", "thinking", "status"), map(_family, FAMILIES))


def _family(family: Family) -> tuple[str, ...]:
    status = f"verified on `{family.template}`" if family in VERIFIED else "unverified"
    return (family.name, f"`{family.tools}`", f"`{family.reasoning}`".replace("``", "-"), status)


def _operators() -> Iterator[str]:
    yield from _title(
        "Routes for operators",
        "For whoever comes from another server that had these for models, presets, quantisation "
        "and benchmarks; `tests/contract/test_matrix.py` fails where a route of ours is not there.",
    )
    rows = ((f"`{one.theirs}`", f"`{one.ours}`" * bool(one.ours), one.note) for one in OPERATORS)
    yield from _table(("there", "here", "what differs, or why it is not"), rows)


def _rest() -> Iterator[str]:
    yield from _title("Planned")
    yield from _table(("what", "why not yet"), notes.PLANNED)
    yield from _title("Left out")
    yield from _table(("what", "why"), notes.LEFT_OUT)
    yield from _title("Who watches for drift")
    yield from _table(("dialect", "watched by"), notes.WATCHES)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
