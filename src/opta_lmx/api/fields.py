"""Request bodies, strictly: exact types, nothing unknown, and every fault named by its place."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from opta_lmx.api.json_body import decode_object
from opta_lmx.core.errors import LmxError, UnknownFieldError, invalid, unsupported
from opta_lmx.core.pauses import about_to_pause

MAX_INT32 = 2**31 - 1
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
MAX_IGNORED = 64
"""Unknown fields that are let pass where the operator allows it; more is no honest mistake."""
_QUICKLY_REREAD_BYTES = 8 * 1024
"""Every unknown field costs another reading; above this size they are no matter of a moment."""

UNSUPPORTED = "unsupported_parameter"
UNKNOWN = "unknown_parameter"
_PHRASES = (
    (re.compile(r"^(?:Input|List|String|Value) should"), "it should"),
    (re.compile(r" after validation"), ""),
    (re.compile(r"a valid dictionary(?: or instance of \w+)?"), "an object"),
)

TAG = "~"
"""Begins the tags of union members, which are no part of a fault's place."""

_Wire = TypeVar("_Wire", bound=BaseModel)
_Call = TypeVar("_Call")

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT32)]
Seed = Annotated[int, Field(ge=MIN_INT64, le=MAX_INT64)]
TopK = Annotated[int, Field(ge=0, le=MAX_INT32)]
MinP = Annotated[float, Field(ge=0, le=1)]
Repetition = Annotated[float, Field(gt=0, le=10)]


class WireModel(BaseModel):
    """Strict types, no NaN or infinity, and the first unknown field refuses the whole."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        populate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: object) -> object:
        # One error, not one per field: a body of a million unknown fields must stay cheap.
        if isinstance(data, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for name in cast("dict[str, object]", data):
                if name not in known:
                    raise PydanticCustomError(UNKNOWN, "it is unknown", {"name": name[:64]})
        return cast("object", data)


TEXT, OTHER = f"{TAG}text", f"{TAG}other"


def text_or_other(value: object) -> str:
    """Discriminates unions of a text and something else, whose members have these tags."""
    return TEXT if isinstance(value, str) else OTHER


def only(*neutral: object) -> AfterValidator:
    """Accept null and the values that ask for nothing; all else is not supported."""

    def check(value: object) -> object:
        if value is None or any(type(value) is type(n) and value == n for n in neutral):
            return value
        raise PydanticCustomError(
            UNSUPPORTED, "this value is not supported; leave the parameter out"
        )

    return AfterValidator(check)


def validated(kind: type[_Wire], fields: dict[str, Any], prefix: str = "") -> _Wire:
    """Check decoded JSON against a wire model.

    Args:
        kind: the model.
        fields: the decoded object.
        prefix: put before the place of a fault (`response.`).

    Raises:
        LmxError: INVALID_REQUEST or UNSUPPORTED_PARAMETER with the dotted `param`.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _first_fault(error, prefix) from None


def _first_fault(error: ValidationError, prefix: str) -> LmxError:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in fault["loc"] if not str(part).startswith(TAG)]
    if fault["type"] == UNKNOWN:
        return UnknownFieldError(prefix + ".".join([*where, fault.get("ctx", {})["name"]]))
    param = prefix + ".".join(where)
    if fault["type"] == UNSUPPORTED:
        return unsupported(f"The parameter '{param}' is not supported with this value.", param)
    if fault["type"] == "missing":
        return invalid(f"The parameter '{param}' is missing.", param=param)
    reason = fault["msg"]
    for pattern, phrase in _PHRASES:
        reason = pattern.sub(phrase, reason, count=1)
    return invalid(f"Invalid value for '{param}': {reason}.", param=param)


class Read(msgspec.Struct, Generic[_Call], frozen=True):
    """A parsed request, and the unknown fields that were let pass."""

    call: _Call
    ignored: tuple[str, ...] = ()


class BodyReader(Generic[_Call]):
    """Bytes to a parsed request of one dialect.

    Args:
        parse: makes the request from the decoded object; raises LmxError.
        lenient: let unknown fields pass, and name them.
    """

    def __init__(self, parse: Callable[[dict[str, Any]], _Call], *, lenient: bool = False) -> None:
        self._parse = parse
        self._lenient = lenient

    def __call__(self, body: bytes) -> Read[_Call]:
        """Read a body. Raises LmxError with the dotted `param` of the first fault."""
        fields = decode_object(body)
        if not self._lenient:
            return Read(self._parse(fields))
        ignored: list[str] = []
        while True:
            try:
                return Read(self._parse(fields), tuple(ignored))
            except UnknownFieldError as error:
                place = error.param or ""
                if len(ignored) >= MAX_IGNORED or not _remove(fields, place):
                    raise
                ignored.append(place)
                if len(body) > _QUICKLY_REREAD_BYTES:
                    about_to_pause()


def _remove(fields: dict[str, Any], place: str) -> bool:
    """Delete what stands at a dotted place; False when nothing does."""
    node: Any = fields
    rest = place
    while True:
        if isinstance(node, list):
            head, _, rest = rest.partition(".")
            items = cast("list[Any]", node)
            if not head.isdecimal() or int(head) >= len(items):
                return False
            node = items[int(head)]
        elif isinstance(node, dict):
            known = cast("dict[str, Any]", node)
            key = _longest_key(known, rest)
            if key is None:
                return False
            if key == rest or len(key) > 64:
                del known[key]
                return True
            node, rest = known[key], rest[len(key) + 1 :]
        else:
            return False


def _longest_key(node: dict[str, Any], place: str) -> str | None:
    """The key of `node` that `place` begins with: keys may hold dots, and names are cut at 64."""
    if place in node:
        return place
    fits = [key for key in node if place == key[:64] or place.startswith(key + ".")]
    return max(fits, key=len, default=None)
