"""Asks the grammar library whether a schema can be held, within bounds of time and memory."""

import threading
from collections import OrderedDict
from typing import Any, cast

import msgspec
from llguidance import LLMatcher, LLParserLimits

from opta_lmx.codec.constraints.lark import Lark
from opta_lmx.codec.constraints.schema import Schema, prepare
from opta_lmx.core.errors import ErrorKind, LmxError, invalid, unsupported
from opta_lmx.core.pauses import about_to_pause

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    max_grammar_size=200_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
"""Within them every hostile schema of the tests is judged in less than half a second."""

_REMEMBERED_BYTES = 4 * 1024 * 1024
"""JSON of the schemas that are remembered; a request may hold a quarter of it."""
_ENTRY_BYTES = 1024
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_CANNOT = ("not supported", "Unimplemented", "only supported", "not disjoint", "look-around")
_TOO_LARGE = ("too large", "too complex", "fuel", "limit", "too many")
_KEYWORDS = {"oneOf": "oneOf", "patternProperty": "patternProperties", "regex": "pattern"}


def prepared(schema: Schema | None, param: str) -> Schema:
    """Return the schema as grammars take it; `None` means any object.

    A schema that was not judged lately takes up to half a second.

    Raises:
        LmxError: as `schema.prepare`, or because the library refuses it; `param` begins with
            the one given.
        TakesLong: within `no_long_pauses`, where it was not judged lately.
    """
    try:
        text = msgspec.json.encode(_ANY_OBJECT if schema is None else schema)
    except (RecursionError, OverflowError, UnicodeError):
        message = "The schema is nested too deeply, or a number in it is too large."
        raise invalid(message, param=param) from None
    try:
        return _judged.get(text)
    except LmxError as error:
        raise LmxError(
            error.kind, error.message, code=error.code, param=param + (error.param or "")
        ) from None


def arguments_schema(parameters: dict[str, Any], param: str) -> dict[str, Any]:
    """Return the prepared schema of a tool's arguments, which are always an object.

    Raises:
        LmxError: as `prepared`.
    """
    kinds = parameters.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise invalid("The arguments of a tool are an object.", param=f"{param}.type")
    made = prepared({**parameters, "type": "object"}, param)
    assert isinstance(made, dict)
    return made


class _Judged:
    """Schemas that can be held; a conversation sends the same ones with every turn."""

    def __init__(self, most_bytes: int) -> None:
        self._schemas: OrderedDict[bytes, Schema] = OrderedDict()
        self._left = most_bytes
        self._guard = threading.Lock()

    def get(self, text: bytes) -> Schema:
        """Return the prepared form. Raises what `_prepare` raises, and TakesLong."""
        with self._guard:
            if text in self._schemas:
                self._schemas.move_to_end(text)
                return self._schemas[text]
        about_to_pause()
        schema = _prepare(text)
        with self._guard:
            if text not in self._schemas:
                self._keep(text, schema)
        return schema

    def _keep(self, text: bytes, schema: Schema) -> None:
        self._schemas[text] = schema
        self._left -= _ENTRY_BYTES + len(text)
        while self._left < 0:
            oldest, _ = self._schemas.popitem(last=False)
            self._left += _ENTRY_BYTES + len(oldest)


_judged = _Judged(_REMEMBERED_BYTES)


def _prepare(text: bytes) -> Schema:
    """Prepared and tried."""
    schema = prepare(msgspec.json.decode(text), "")
    lark = Lark()
    failed, messages = LLMatcher.validate_grammar_with_warnings(
        lark.text(lark.json(schema)), limits=LIMITS
    )
    if failed:
        raise _refusal(messages[0], schema)
    return schema


def _refusal(message: str, schema: Schema) -> LmxError:
    reason = message.partition("JSON schema: ")[2].partition("\n   1 |")[0].strip() or message
    short = (
        reason.splitlines()[-1][:200] if "regex parse" in reason else reason.splitlines()[0][:200]
    )
    if "Unsatisfiable" in reason or "unsatisfiable" in reason:
        return invalid(f"Nothing can fit this schema: {short}", param="")
    if any(word in reason for word in _CANNOT):
        keyword = next((name for word, name in _KEYWORDS.items() if word in reason), "")
        return unsupported(f"This cannot be enforced: {short}", _find(schema, keyword))
    if any(word in reason for word in _TOO_LARGE):
        return invalid("The schema is too complex to be enforced.", param="")
    return LmxError(ErrorKind.INVALID_REQUEST, f"The schema is not valid: {short}", param="")


def _find(schema: object, keyword: str, path: str = "") -> str:
    """Where the keyword first stands; empty where it does not."""
    if isinstance(schema, dict):
        members = list(cast("dict[str, object]", schema).items())
        if keyword in schema:
            return f"{path}.{keyword}"
    elif isinstance(schema, list):
        members = [(str(at), item) for at, item in enumerate(cast("list[object]", schema))]
    else:
        return ""
    found = (_find(child, keyword, f"{path}.{key}") for key, child in members)
    return next((place for place in found if place), "")
