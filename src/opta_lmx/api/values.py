"""Types of single request values that several dialects share."""

from typing import Annotated, Any, cast

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


def check_object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse a tool schema that is not an object's."""
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("schema", "it should be the schema of an object")
    return schema


StopStrings = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(as_list, json_schema_input_type=str | list[str]),
]
Labels = Annotated[dict[str, str], BeforeValidator(_few_labels), AfterValidator(_check_labels)]
TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_check_template_kwargs)]
LogitBias = Annotated[dict[str, float], BeforeValidator(_few_biased), AfterValidator(_check_bias)]


def bias_pairs(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    """The core's form of a wire `logit_bias`."""
    return tuple((int(token), value) for token, value in (bias or {}).items())
