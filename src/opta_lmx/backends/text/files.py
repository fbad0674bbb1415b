"""Reads the small JSON files of a model folder."""

import json
from pathlib import Path
from typing import Any, cast

from opta_lmx.backends.protocol import LoadError


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty when the file is not there.

    Raises:
        LoadError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path.name} does not hold a JSON object")
    return cast("dict[str, Any]", value)
