"""Asks the grammar library whether a schema can be held, within bounds of time and memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec
from llguidance import LLMatcher, LLParserLimits

from opta_lmx.codec.constraints.lark import Lark
from opta_lmx.codec.constraints.schema import Schema, prepare
from opta_lmx.core.errors import LmxError, invalid, unsupported
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
_TOO_LARGE = ("too large", "too complex", "fuel", "limit", "too many", "Unable to determine")
_UNHELD = {
    "look-around": (("pattern", "patternProperties"), "a pattern that looks around"),
    "backreference": (("pattern", "patternProperties"), "a pattern that refers back"),
    "not disjoint": (("patternProperties",), "patterns of names of which two fit one name"),
    "oneOf": (("oneOf",), "'oneOf' whose members can fit one value together"),
    "min/maxProperties": (
        ("minProperties", "maxProperties"),
        "a number of properties where some that are listed may be absent",
    ),
    "circular": (("$ref",), "a reference to itself beside other keywords"),
    "regex": (("pattern", "patternProperties"), "what this pattern asks"),
}
"""What the library says it cannot do, by a word of it: the keywords to look for, and our words."""
_FAULTS = {
    "does not exist": "a reference in it leads nowhere",
    "regex": "a pattern in it cannot be read",
    "multiple": "'multipleOf' must be greater than 0",
}


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


def is_possible(grammar: str) -> bool:
    """Return whether a part of a grammar can be compiled, so that something fits it.

    Raises:
        TakesLong: within `no_long_pauses`, where it was not judged lately.
    """
    return _possible.get(grammar.encode())


_T = TypeVar("_T")


class _Judged(Generic[_T]):
    """What was made of texts; a conversation sends the same ones with every turn."""

    def __init__(self, most_bytes: int, make: Callable[[bytes], _T]) -> None:
        self._made: OrderedDict[bytes, _T] = OrderedDict()
        self._make = make
        self._left = most_bytes
        self._guard = threading.Lock()

    def get(self, text: bytes) -> _T:
        """Return what `make` returns. Raises what that raises, and TakesLong."""
        with self._guard:
            if text in self._made:
                self._made.move_to_end(text)
                return self._made[text]
        about_to_pause()
        made = self._make(text)
        with self._guard:
            if text not in self._made:
                self._keep(text, made)
        return made

    def _keep(self, text: bytes, made: _T) -> None:
        self._made[text] = made
        self._left -= _ENTRY_BYTES + len(text)
        while self._left < 0:
            oldest, _ = self._made.popitem(last=False)
            self._left += _ENTRY_BYTES + len(oldest)


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


def _compiles(grammar: bytes) -> bool:
    return not LLMatcher.validate_grammar_with_warnings(grammar.decode(), limits=LIMITS)[0]


_judged = _Judged(_REMEMBERED_BYTES, _prepare)
_possible = _Judged(_REMEMBERED_BYTES, _compiles)


def _refusal(message: str, schema: Schema) -> LmxError:
    """The library's words stay here: only what they are about is told, in words of our own."""
    reason = message.partition("JSON schema: ")[2].partition("\n   1 |")[0].strip() or message
    if "satisfiable" in reason:
        return invalid("Nothing can fit this schema: its keywords contradict each other.", param="")
    if any(word in reason for word in _CANNOT):
        return _unheld(reason, schema)
    if any(word in reason for word in _TOO_LARGE):
        return invalid("The schema is too complex to be enforced.", param="")
    for word, fault in _FAULTS.items():
        if word in reason:
            return invalid(f"The schema is not valid: {fault}.", param="")
    return invalid("The schema is not valid, or cannot be enforced.", param="")


def _unheld(reason: str, schema: Schema) -> LmxError:
    for word, (keywords, what) in _UNHELD.items():
        if word in reason:
            place = next((at for key in keywords if (at := _find(schema, key))), "")
            return unsupported(f"This cannot be enforced: {what}.", place)
    return unsupported("A keyword of the schema cannot be enforced.", "")


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
