"""Writes `docs/compatibility.md` from the rows that the contract tests prove (`make docs`)."""

from collections.abc import Iterator
from pathlib import Path

from tests.contract.matrix.model import BACKENDS, Row, Surface
from tests.contract.matrix.surfaces import SURFACES

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"
_MARKS = {"supported": "yes", "accepted": "accepted", "refused": "400", "by model": "by model"}
_HEAD = """# Compatibility

What happens to every field of every request, on both backends. This page is written by
`make docs` from the rows that `tests/contract/test_matrix.py` proves against a live server; a
test fails when it is stale. Fields that are in no row are refused with a 400 that names them.

- **yes**: the field has the stated effect.
- **accepted**: it has a stated meaning that changes nothing here.
- **by model**: what the field asks for needs a model that can; all others refuse it by name.
- **400**: refused by name; nothing is dropped in silence.
"""


def document() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for surface in SURFACES for line in _section(surface))])


def _section(surface: Surface) -> Iterator[str]:
    yield f"## {surface.name}"
    yield ""
    yield f"`POST {surface.path}`. Drift is watched by {surface.watch}."
    yield ""
    yield "| field | " + " | ".join(BACKENDS) + " | meaning |"
    yield "| --- |" + " --- |" * (len(BACKENDS) + 1)
    yield from (_line(row) for row in surface.rows)
    yield ""


def _line(row: Row) -> str:
    marks = " | ".join(_MARKS[row.status_on(backend)] for backend in BACKENDS)
    return f"| `{row.field}` | {marks} | {row.meaning.replace('|', '/')} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
