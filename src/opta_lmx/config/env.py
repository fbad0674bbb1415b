"""Read `LMX_SECTION__KEY` variables: which setting each one names, and the value it carries."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from opta_lmx.config.settings import fields
from opta_lmx.core.errors import invalid

PREFIX = "LMX_"
_NOT_SETTINGS = ("LMX_HOME",)
_TEST_PREFIX = "LMX_TEST_"


def variable(key: str) -> str:
    """The environment variable of a dotted key: `server.port` is `LMX_SERVER__PORT`."""
    return PREFIX + key.replace(".", "__").upper()


def environment_values(env: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    """Yield (variable, dotted key, value) for every setting found in `env`.

    Raises:
        LmxError: code `invalid_config` for an `LMX_` variable that names no setting.
    """
    known = {variable(key): (key, field) for key, field in fields().items()}
    for name, raw in env.items():
        if not name.startswith(PREFIX) or name in _NOT_SETTINGS or name.startswith(_TEST_PREFIX):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *_NOT_SETTINGS], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise invalid(
                f"Unknown environment variable {name}{hint}",
                param=name,
                code="invalid_config",
            )
        key, field = known[name]
        yield name, key, value_of(raw, field)


def value_of(raw: str, field: FieldInfo) -> object:
    """Parse one variable as a TOML literal, else keep the text; validation comes later.

    A field that holds text takes the text as it stands (a key may look like a number), and
    an empty variable unsets a field that may be unset.
    """
    nullable, text = _shape(field.annotation)
    if raw == "" and nullable:
        return None
    literal = _literal(raw)
    return raw if text and not isinstance(literal, str) else literal


def _literal(raw: str) -> object:
    try:
        table = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    return table["value"] if len(table) == 1 else raw


def _shape(annotation: Any) -> tuple[bool, bool]:
    """Whether a field may be None, and whether it holds text (a string, path or name)."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _shape(get_args(annotation)[0])
    if origin in (Union, UnionType):
        shapes = [_shape(part) for part in get_args(annotation)]
        return any(s[0] for s in shapes), any(s[1] for s in shapes)
    return annotation is type(None), origin is Literal or annotation in (
        str,
        SecretStr,
        Path,
    )
