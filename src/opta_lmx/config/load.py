"""Join the sources into one tree: defaults < file < environment < flags, by single keys."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from opta_lmx.config.env import environment_values
from opta_lmx.config.settings import Settings, fields
from opta_lmx.core.errors import LmxError, invalid

DEFAULT_ORIGIN = "default"
FILE_NAME = "config.toml"
_KEYS = "access.keys"


@dataclass(frozen=True)
class Loaded:
    """The settings, and for every dotted key the source its value came from."""

    settings: Settings
    origins: dict[str, str]


@dataclass(frozen=True)
class _Value:
    value: object
    origin: str


def lmx_home(env: Mapping[str, str]) -> Path:
    """The folder of all state: `$LMX_HOME`, else `.opta-lmx` in the user's home folder."""
    user = Path(env["HOME"]) if env.get("HOME") else Path.home()
    named = env.get("LMX_HOME", "")
    if not named:
        return user / ".opta-lmx"
    return Path(user / named[2:] if named.startswith("~/") else named).absolute()


def load_settings(
    *,
    home: Path,
    file: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
) -> Loaded:
    """Read every source and validate the result.

    Args:
        home: the state folder; its `config.toml` is read where `file` is None.
        file: a configuration file that must exist.
        env: `LMX_SECTION__KEY` variables; others are ignored, unknown `LMX_` ones refused.
        flags: dotted key to value; None means the flag was not given.

    Raises:
        LmxError: code `invalid_config`, `param` the dotted key, the message naming the source.
    """
    values = _file_values(home, file)
    for name, key, value in environment_values(env):
        values[key] = _Value(value, f"environment {name}")
    for key, value in flags.items():
        if value is not None:
            values[_known(key, "a flag")] = _Value(value, "flag")
    return Loaded(_validated(values), _origins(values))


def _file_values(home: Path, file: Path | None) -> dict[str, _Value]:
    path = file or home / FILE_NAME
    if file is None and not path.exists():
        return {}
    origin = f"file {path}"
    values: dict[str, _Value] = {}
    for section, table in _parsed(path).items():
        if not isinstance(table, dict):
            _known(section, origin)
            raise _broken(f"{section} must be a table, from {origin}", section)
        for key, value in cast(dict[str, Any], table).items():
            values[_known(f"{section}.{key}", origin)] = _Value(value, origin)
    return values


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _broken(f"Cannot read configuration file {path}: {error.strerror}") from error
    except RecursionError as error:
        raise _broken(f"Configuration file {path} is nested too deeply") from error
    except ValueError as error:
        raise _broken(f"Configuration file {path} is not valid TOML: {error}") from error


def _known(key: str, origin: str) -> str:
    """Return `key`, or refuse it with the nearest key that exists."""
    keys = tuple(fields())
    if key in keys:
        return key
    sections = tuple(Settings.model_fields)
    if key in sections:
        raise _broken(f"{key} is a section, not a single setting, in {origin}", key)
    near = difflib.get_close_matches(key, keys + sections, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise _broken(f"Unknown setting {key} in {origin}{hint}", key)


def _validated(values: Mapping[str, _Value]) -> Settings:
    tree: dict[str, dict[str, object]] = {}
    for key, entry in values.items():
        section, name = key.split(".", 1)
        tree.setdefault(section, {})[name] = entry.value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False), values) from error


def _refusal(details: list[ErrorDetails], values: Mapping[str, _Value]) -> LmxError:
    """Turn the first complaint into a typed error that names the key and its source."""
    first = details[0]
    if first["type"] == "key_taken":
        return _broken(f"{_KEYS}: {first['msg']}, from {values[_KEYS].origin}", _KEYS)
    # A name that is wrong itself is marked so at the end of its path.
    path = [str(part) for part in first["loc"] if part != "[key]"]
    entry = values.get(".".join(path[:2]))
    param = ".".join(path)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    origin = entry.origin if entry else _origin_of_section(path[0], values)
    if first["type"] == "extra_forbidden":
        return _broken(f"Unknown setting {param} in {origin}{more}", param)
    return _broken(f"{param}: {first['msg']}, from {origin}{more}", param)


def _origin_of_section(name: str, values: Mapping[str, _Value]) -> str:
    """Where the values of a section came from, for what they lack together."""
    found = (entry.origin for key, entry in values.items() if key.startswith(f"{name}."))
    return ", ".join(dict.fromkeys(found)) or DEFAULT_ORIGIN


def _origins(values: Mapping[str, _Value]) -> dict[str, str]:
    return {key: values[key].origin if key in values else DEFAULT_ORIGIN for key in fields()}


def _broken(message: str, param: str | None = None) -> LmxError:
    return invalid(message, param=param, code="invalid_config")
