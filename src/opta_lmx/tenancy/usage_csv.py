"""Usage as CSV (RFC 4180), safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def written(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows under their headings; a text that a spreadsheet might run begins with `'`."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
    return text.getvalue()


def _cell(value: object) -> object:
    # Blanks before a sign do not hide a formula from every program.
    if isinstance(value, str) and value.lstrip(" ").startswith(_BEGINS_FORMULA):
        return f"'{value}"
    return value
