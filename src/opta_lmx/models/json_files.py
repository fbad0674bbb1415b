"""Reads JSON files of unknown origin: bounded in size, an object at the top."""

import json
from pathlib import Path
from typing import Any, cast

from opta_lmx.core.errors import LmxError, invalid

MAX_JSON_BYTES = 64 << 20
"""Tokenizer files reach 30 MB; configurations are a few kB."""


def bad_config(file: str, reason: str) -> LmxError:
    """The error every defect of a model's JSON file becomes."""
    return invalid(f"The model's {file} cannot be used: {reason}.", code="invalid_config")


def read_bounded(path: Path, limit: int) -> bytes:
    """The file's bytes.

    Raises:
        LmxError: code `invalid_config`, when unreadable or longer than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise bad_config(path.name, f"it cannot be read ({error.strerror})") from error
    if len(data) > limit:
        raise bad_config(path.name, f"it is larger than {limit} bytes")
    return data


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """`data` as a JSON object; LmxError code `invalid_config` otherwise.

    The standard library's parser, because published configurations do hold `Infinity`.
    """
    try:
        parsed: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_config(name, "it is not JSON") from error
    if not isinstance(parsed, dict):
        raise bad_config(name, "it is not a JSON object")
    return cast(dict[str, Any], parsed)


def read_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in `path`; an absent file is an empty object."""
    if not path.is_file():
        return {}
    return parse_object(read_bounded(path, limit), path.name)
