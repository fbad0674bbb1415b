"""Single values that several dialects share: types of those asked, forms of those told."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from opta_lmx.api.fields import MAX_INT32

MAX_STOPS = 4
MAX_STOP_LENGTH = 1024
MAX_LABELS = 16
MAX_BIASED = 1024
RESERVED_TEMPLATE_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
)
_MOST_LABELS: dict[str, Any] = {"most": MAX_LABELS}
_MOST_BIASED: dict[str, Any] = {"most": MAX_BIASED}


def as_list(value: object) -> object:
    """A single string as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


def _few_labels(labels: object) -> object:
    # Counted before they are looked at one by one, each at the price of an error.
    if isinstance(labels, dict) and len(cast("dict[str, object]", labels)) > MAX_LABELS:
        raise PydanticCustomError("labels", "it should hold at most {most} pairs", _MOST_LABELS)
    return cast("object", labels)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if len(key) > 64 or len(value) > 512:
            raise PydanticCustomError(
                "labels", "its keys should have at most 64 characters and its values 512"
            )
    return labels


def _check_template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if not name.isidentifier() or name in RESERVED_TEMPLATE_NAMES or len(name) > 64:
            raise PydanticCustomError(
                "template_kwargs", "'{name}' cannot be set", {"name": name[:64]}
            )
    return kwargs


def _few_biased(bias: object) -> object:
    if isinstance(bias, dict) and len(cast("dict[str, object]", bias)) > MAX_BIASED:
        raise PydanticCustomError("bias", "it should hold at most {most} tokens", _MOST_BIASED)
    return cast("object", bias)


def _check_bias(bias: dict[str, float]) -> dict[str, float]:
    for token, value in bias.items():
        if not (token.isascii() and token.isdecimal() and int(token) <= MAX_INT32):
            raise PydanticCustomError(
                "bias", "'{token}' should be a token id", {"token": token[:64]}
            )
        if not -100 <= value <= 100:
            raise PydanticCustomError("bias", "its values should be between -100 and 100")
    return bias


def _check_object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse a tool schema that is not an object's."""
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("schema", "it should be the schema of an object")
    return schema


StopString = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]
StopStrings = Annotated[
    list[StopString],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(as_list, json_schema_input_type=str | list[str]),
]
Labels = Annotated[dict[str, str], BeforeValidator(_few_labels), AfterValidator(_check_labels)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
ObjectSchema = Annotated[dict[str, Any], AfterValidator(_check_object_schema)]
CacheRetention = Literal["in_memory", "in-memory", "24h"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_check_template_kwargs)]
LogitBias = Annotated[dict[str, float], BeforeValidator(_few_biased), AfterValidator(_check_bias)]


def bias_pairs(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    """The core's form of a wire `logit_bias`."""
    return tuple((int(token), value) for token, value in (bias or {}).items())


def timestamp(ms: int) -> str:
    """A moment (ms since the epoch) as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def effort_kwargs(effort: Effort | None) -> dict[str, Any]:
    """What a chat template is told of an effort to think."""
    if effort is None:
        return {}
    off = {"enable_thinking": False} if effort in ("none", "minimal") else {}
    return {"reasoning_effort": effort, **off}
