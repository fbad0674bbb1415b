"""Values that a dialect writes as bare text: the tool's JSON Schema says what they are."""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any, cast

from opta_lmx.codec.tools.json_text import ValueReader
from opta_lmx.codec.tools.source import CALL_COST, Source, marks_of
from opta_lmx.codec.tools.strings import Ends, quoted

_MAX_DEPTH = 16
_NO_ENDS = Ends(marks_of())
_ALL = frozenset(("string", "number", "integer", "boolean", "null", "object", "array"))
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_WORDS = {"true": "boolean", "false": "boolean", "null": "null"}
_PAIRS = {"{": "}", "[": "]"}
_BEGUN = re.compile(r'\{[ \t\r\n]*+["}]|\[[ \t\r\n]*+["{\[\]0-9tfn-]')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?P<rest>(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)")
_LONG = 4_000
"""Characters from which on a number may have more digits than Python reads."""


def json_types(schema: object, root: dict[str, Any]) -> frozenset[str]:
    """Return the JSON types a schema allows; empty when it does not say.

    Args:
        schema: any part of `root`, or of another schema with the definitions of `root`.
        root: what references start from.
    """
    return _types(schema, root, _MAX_DEPTH)


def value_json(text: str, types: frozenset[str], answer: Source) -> str:
    """Return JSON text for a bare value.

    A value that may be a string is one, unless it reads as another type the schema allows;
    where the schema says nothing, it is whatever it reads as.

    Args:
        text: the value as it is written.
        types: what the schema allows; empty when it does not say.
        answer: what pays for repairs.
    """
    read = _read(text.strip(), types, answer)
    if read is not None:
        found, kind = read
        if not types or kind in types or (kind == "integer" and "number" in types):
            return found
        if "string" not in types:
            return found
    return quoted(text)


def _read(text: str, types: frozenset[str], answer: Source) -> tuple[str, str] | None:
    """The value as JSON text and its type; None for what is no JSON but a text."""
    text = _PYTHON.get(text, text)
    if types and text.lower() in _WORDS and "string" not in types:
        text = text.lower()
    first = text[:1]
    if first in _PAIRS and first:
        return _composed(text, first, answer)
    if text in _WORDS:
        return text, _WORDS[text]
    if first == '"':
        return (text, "string") if len(text) > 1 and text[-1] == '"' and _sound(text) else None
    number = _NUMBER.fullmatch(text)
    if number is None or (len(text) > _LONG and not _sound(text)):
        return None
    return text, "number" if number["rest"] else "integer"


def _composed(text: str, first: str, answer: Source) -> tuple[str, str] | None:
    """An object or a list, mended where it must be."""
    if not (_seems_whole(text, first, _PAIRS[first]) and _sound(text)):
        text = _mended(text, answer)
        if not text or (len(text) > _LONG and not _sound(text)):
            return None
    return text, "object" if first == "{" else "array"


def _seems_whole(text: str, first: str, last: str) -> bool:
    """A cheap look, which spares most of what is broken the dear attempt to decode it."""
    if text[-1] != last or text[-2] in ",:" or _BEGUN.match(text) is None:
        return False
    return '"' in text or text.count(first) == text.count(last)


def _mended(text: str, answer: Source) -> str:
    """The object or list in `text` as JSON; empty when it is beyond mending."""
    if answer.weary:
        return ""
    source, parts = Source(), list[str]()
    source.spent = answer.spent
    source.add(text)
    source.end(truncated=False)
    reads = ValueReader(source, parts.append, _NO_ENDS).read()
    with contextlib.suppress(StopIteration):
        next(reads)
        return ""
    answer.spent = source.spent + CALL_COST
    sound = source.at == len(source.text)
    return "".join(parts) if sound else ""


def _sound(text: str) -> bool:
    try:
        _decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(word: str) -> None:
    raise ValueError(word)


_decode: Callable[[str], Any] = json.JSONDecoder(parse_constant=_refuse).decode


def _kind(value: object) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(value, kind):
            return name
    return "array" if isinstance(value, list) else "object"


def _types(schema: object, root: dict[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(schema, dict) or depth == 0:
        return frozenset()
    said = cast("dict[str, Any]", schema)
    kind = said.get("type")
    if isinstance(kind, str):
        return frozenset((kind,))
    if isinstance(kind, list):
        return frozenset(k for k in cast("list[object]", kind) if isinstance(k, str))
    if "const" in said:
        return frozenset((_kind(said["const"]),))
    if isinstance(said.get("enum"), list):
        return frozenset(_kind(value) for value in said["enum"])
    return _joined(said, root, depth - 1)


def _joined(said: dict[str, Any], root: dict[str, Any], depth: int) -> frozenset[str]:
    if isinstance(said.get("$ref"), str):
        return _types(referred(said["$ref"], root), root, depth)
    for word in ("anyOf", "oneOf"):
        if isinstance(said.get(word), list):
            choices = [_types(choice, root, depth) for choice in said[word]]
            return frozenset[str]().union(*choices) if all(choices) else frozenset()
    members = said.get("allOf")
    for choice in cast("list[object]", members) if isinstance(members, list) else ():
        if found := _types(choice, root, depth):
            return found
    return frozenset()


def referred(reference: str, root: dict[str, Any]) -> object:
    """Return what a reference inside the same schema points at; None for nothing."""
    if not reference.startswith("#/"):
        return None
    at: object = root
    for part in reference[2:].split("/"):
        if not isinstance(at, dict):
            return None
        at = cast("dict[str, object]", at).get(part.replace("~1", "/").replace("~0", "~"))
    return at
