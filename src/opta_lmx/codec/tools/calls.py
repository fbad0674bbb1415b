"""Reads finished call texts: JSON objects with a name and arguments, in their usual variants."""

from typing import Any

import msgspec

from opta_lmx.codec.tools.mending import mend

_Json = msgspec.Raw | msgspec.UnsetType


class WholeCall(msgspec.Struct, frozen=True, gc=False):
    """A call read as a whole; `arguments` is valid JSON text, as the model wrote it."""

    name: str
    arguments: str


class _Function(msgspec.Struct):
    """`arguments` is OpenAI's and Hermes' word, `parameters` is Llama's."""

    name: str | None = None
    arguments: _Json = msgspec.UNSET
    parameters: _Json = msgspec.UNSET


class _Call(_Function):
    """A call, or an envelope: `function` holds OpenAI's inner object, or just the name."""

    function: _Json = msgspec.UNSET


_decoder: msgspec.json.Decoder[_Call | list[_Call]] = msgspec.json.Decoder(_Call | list[_Call])
_function_decoder: msgspec.json.Decoder[_Function | str] = msgspec.json.Decoder(_Function | str)
_any_decoder = msgspec.json.Decoder(Any)
_BROKEN = (msgspec.MsgspecError, RecursionError, UnicodeError)


def read_calls(
    text: str, *, may_close: bool, bare_name: bool, sound: bool = False
) -> list[WholeCall] | None:
    """Read the call or calls in `text`.

    Args:
        text: one JSON object or list, or several one after another, perhaps slightly broken.
        may_close: whether missing closing brackets may be supplied (see `mend`).
        bare_name: whether an object with a name and no arguments is a call without arguments.
        sound: nothing is repaired.

    Returns:
        The calls; an empty list when this is sound JSON but no call; None when it is broken.
    """
    calls = _decode(text)
    if calls is None:
        if sound:
            return None
        values = mend(text, may_close=may_close)
        if not values:
            return None
        mended = [_decode(value) for value in values]
        calls = [call for decoded in mended if decoded is not None for call in decoded]
        if None in mended:
            return None
    read = [_call(call, bare_name) for call in calls]
    return [call for call in read if call is not None] if all(read) else []


def _decode(text: str) -> list[_Call] | None:
    try:
        decoded = _decoder.decode(text)
    except _BROKEN:
        return None
    return decoded if isinstance(decoded, list) else [decoded]


def _call(call: _Call, bare_name: bool) -> WholeCall | None:
    function: _Function | None = call
    if isinstance(call.function, msgspec.Raw):
        function = _enclosed(call, call.function)
    if function is None or not function.name:
        return None
    arguments = function.arguments
    if arguments is msgspec.UNSET:
        arguments = function.parameters
    if arguments is msgspec.UNSET and not bare_name:
        return None
    return WholeCall(function.name, _arguments(arguments))


def _enclosed(call: _Call, function: msgspec.Raw) -> _Function | None:
    try:
        inner = _function_decoder.decode(function)
    except _BROKEN:
        return None
    if isinstance(inner, str):
        return _Function(inner, call.arguments, call.parameters)
    return inner


def _arguments(raw: _Json) -> str:
    """Return JSON text. Arguments written as a string of JSON are unwrapped once."""
    if not isinstance(raw, msgspec.Raw):
        return "{}"
    text = bytes(raw).decode("utf-8", "replace").strip()
    if text == "null":
        return "{}"
    if not text.startswith('"'):
        return text
    inner: str = msgspec.json.decode(text, type=str)
    if not inner.strip():
        return "{}"
    return inner if _is_json(inner) else text


def _is_json(text: str) -> bool:
    try:
        _any_decoder.decode(text)
    except _BROKEN:
        return False
    return True
