"""Bytes to a JSON object: sound numbers, bounded nesting, and a plain word on what is wrong."""

import contextlib
import gc
import json
import math
import re
from collections.abc import Generator, Iterator
from typing import Any, cast

import msgspec

from opta_lmx.core.errors import LmxError, invalid

MAX_DEPTH = 64
"""Nesting of a request body."""

MAX_KEYS = 200_000
"""Keys of all objects in a request body."""

MAX_CONTAINERS = 250_000
"""Objects and lists in a request body."""

_INT_RANGE = (-(2**63), 2**64 - 1)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Head(msgspec.Struct, frozen=True):
    """What the first gate needs to know: the model, and how many answers are wanted.

    `counted_by` names the field that asks for so many. `user` and `session` are whom the request
    says it is from and of, "" where it does not; neither is checked yet. `keep_s` is how long
    its model may be idle from then on, where it says so under `ttl`.
    """

    model: str
    answers: int
    counted_by: str = "n"
    user: str = ""
    session: str = ""
    keep_s: float | None = None


_NOTHING = msgspec.Raw(b"null")
_MAX_SHORT_BYTES = 4096
"""Of a field that is looked at before it is checked; a longer one says nothing yet."""


class _Head(msgspec.Struct):
    model: Any = None
    n: Any = None
    # Left as they stand: any of them may be anything, and of any size.
    user: msgspec.Raw = _NOTHING
    safety_identifier: msgspec.Raw = _NOTHING
    metadata: msgspec.Raw = _NOTHING
    prompt_cache_key: msgspec.Raw = _NOTHING
    ttl: msgspec.Raw = _NOTHING


_head_decoder = msgspec.json.Decoder(_Head)
_any_decoder = msgspec.json.Decoder(Any)


def read_head(body: bytes) -> Head:
    """Read the model's name, `n`, and who asks; skip everything else.

    Raises:
        LmxError: INVALID_REQUEST; the body is no JSON object, or names no model.
    """
    head = decode(body, _head_decoder)
    if not isinstance(head.model, str) or not head.model:
        raise invalid("The parameter 'model' must be a non-empty string.", param="model")
    sound = type(head.n) is int and head.n > 0
    user = (_text(head.user) or _text(head.safety_identifier)) or _user_in(head.metadata)
    session = _text(head.prompt_cache_key)
    ttl = _short(head.ttl)
    keep_s = float(ttl) if type(ttl) is int and ttl >= 0 else None
    return Head(head.model, head.n if sound else 1, user=user, session=session, keep_s=keep_s)


def _text(raw: msgspec.Raw) -> str:
    value = _short(raw)
    return value if isinstance(value, str) else ""


def _user_in(metadata: msgspec.Raw) -> str:
    """Anthropic's place for the user."""
    value = _short(metadata)
    if not isinstance(value, dict):
        return ""
    user = cast("dict[str, Any]", value).get("user_id")
    return user if isinstance(user, str) else ""


def _short(raw: msgspec.Raw) -> object:
    """The value; None for one that is too long to be looked at, or unsound."""
    if len(bytes(raw)) > _MAX_SHORT_BYTES:
        return None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(raw)
    return None


def decode_object(body: bytes) -> dict[str, Any]:
    """Read the whole body as one JSON object.

    Raises:
        LmxError: INVALID_REQUEST; not JSON, not an object, nested too deep, too many parts, or
            a number that nothing can carry (its place is the `param`).
    """
    fields = decode(body, _any_decoder)
    if not isinstance(fields, dict):
        raise invalid("The request body must be a JSON object.", code="invalid_json")
    checked = cast("dict[str, Any]", fields)
    check_tree(checked)
    return checked


def decode(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    """Decode; half characters become U+FFFD. Raises LmxError INVALID_REQUEST."""
    try:
        with _no_collection():
            return decoder.decode(body)
    except msgspec.ValidationError as error:
        cause: Exception = error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cause = error
    except RecursionError:
        raise _too_deep() from None
    mended = _explain(body, cause)
    try:
        return decoder.decode(mended)
    except msgspec.MsgspecError as error:
        raise invalid(f"The request body is not valid: {error}.", code="invalid_json") from None


@contextlib.contextmanager
def _no_collection() -> Generator[None]:
    """Keep the collector out of one call.

    It would walk millions of small values again and again: 9 MB of empty lists then hold the
    interpreter for 0.9 s instead of 0.2 s.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _explain(body: bytes, cause: Exception) -> bytes:
    """Say what a strict parser dislikes, or return the body without half characters.

    A lenient second reading tells numbers that JSON has no word for (NaN, 1e309: named by
    their place) and strings that JavaScript clients cut within a character (a lone surrogate
    becomes U+FFFD: a history must not be refused for ever for one cut emoji) from true garbage.
    """
    try:
        with _no_collection():
            value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise invalid(
            f"The request body is not valid JSON: {cause}.", code="invalid_json"
        ) from None
    if not isinstance(value, dict):
        raise invalid("The request body must be a JSON object.", code="invalid_json")
    check_tree(cast("dict[str, Any]", value))
    return _SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)).encode()


def check_tree(fields: dict[str, Any]) -> None:
    """Refuse deep nesting, too many parts, and numbers nothing can carry. Raises LmxError."""
    level: list[Any] = [fields]
    keys = containers = 0
    for _ in range(MAX_DEPTH):
        keys += sum(len(cast("dict[str, Any]", node)) for node in level if type(node) is dict)
        containers += len(level)
        if keys > MAX_KEYS:
            raise _too_many(f"{MAX_KEYS} keys")
        if containers > MAX_CONTAINERS:
            raise _too_many(f"{MAX_CONTAINERS} objects and lists")
        inner = [
            value
            for node in level
            for value in (cast("dict[str, Any]", node).values() if type(node) is dict else node)
        ]
        if not all(_sound(value) for value in inner if type(value) in (int, float)):
            raise _bad_number(fields)
        level = [value for value in inner if type(value) in (dict, list)]
        if not level:
            return
    raise _too_deep()


def _sound(number: float) -> bool:
    if isinstance(number, int):
        return _INT_RANGE[0] <= number <= _INT_RANGE[1]
    return math.isfinite(number)


def _bad_number(fields: dict[str, Any]) -> LmxError:
    param = _place_of_bad_number(fields)
    return invalid(f"The number in '{param}' is out of range or not finite.", param=param)


def _place_of_bad_number(fields: dict[str, Any]) -> str:
    """Return the dotted place of the first unsound number, in the order of the body."""
    path: list[str] = []
    waiting = [_items(fields)]
    while waiting:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
            del path[-1:]
        elif type(item[1]) in (dict, list):
            path.append(str(item[0])[:64])
            waiting.append(_items(item[1]))
        elif type(item[1]) in (int, float) and not _sound(item[1]):
            return ".".join([*path, str(item[0])[:64]])
    return ""


def _items(node: object) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        return iter(cast("dict[str, Any]", node).items())
    return enumerate(cast("list[Any]", node))


def _too_many(parts: str) -> LmxError:
    return invalid(f"The request body has more than {parts}.", code="invalid_json")


def _too_deep() -> LmxError:
    return invalid(f"The request body is nested deeper than {MAX_DEPTH}.", code="invalid_json")
