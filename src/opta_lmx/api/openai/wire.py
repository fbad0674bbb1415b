"""The chat request as it stands on the wire: every field has a stated meaning or is refused.

`messages` stays raw here: `codec.normalise` checks it and names what is wrong by position.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_TOOLS = 128
MAX_STOPS = 4
MAX_LABELS = 16
MAX_STOP_LENGTH = 1024
MAX_INT32 = 2**31 - 1
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
RESERVED_TEMPLATE_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
)
_MOST_LABELS: dict[str, Any] = {"most": MAX_LABELS}
UNSUPPORTED = "unsupported_parameter"
UNKNOWN = "unknown_parameter"


def _only(*neutral: object) -> AfterValidator:
    """Accept null and the values that ask for nothing; all else is not supported yet."""

    def check(value: object) -> object:
        if value is None or any(type(value) is type(n) and value == n for n in neutral):
            return value
        raise PydanticCustomError(
            UNSUPPORTED, "this value is not supported; leave the parameter out"
        )

    return AfterValidator(check)


def _as_list(value: object) -> object:
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


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("schema", "it should be the schema of an object")
    return schema


class WireModel(BaseModel):
    """Strict types, no NaN or infinity, and the first unknown field refuses the whole."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: object) -> object:
        # One error, not one per field: a body of a million unknown fields must stay cheap.
        names = cast("dict[str, object]", data) if isinstance(data, dict) else ()
        for name in names:
            if name not in cls.model_fields:
                raise PydanticCustomError(UNKNOWN, "it is unknown", {"name": name[:64]})
        return cast("object", data)


class StreamOptions(WireModel):
    """Options of a streamed answer."""

    include_usage: bool | None = Field(
        None, description="Send exact token counts in a last chunk without choices."
    )
    include_obfuscation: Annotated[Any, _only(False)] = Field(
        None, description="No padding is ever sent: only false is accepted."
    )


class Function(WireModel):
    """A function the model may call."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_check_schema)] | None = Field(
        None, description="JSON Schema of the arguments: an object. Absent: no arguments."
    )
    strict: Annotated[Any, _only(False)] = Field(
        None, description="Arguments are not yet held to the schema: true is refused."
    )


class Tool(WireModel):
    """A tool; only functions are known."""

    type: Annotated[str, _only("function")]
    function: Function


class Thinking(WireModel):
    """Anthropic's switch, which some OpenAI clients send: becomes `enable_thinking`."""

    type: Literal["enabled", "disabled"]


class ChatCompletionRequest(WireModel):
    """Body of `POST /v1/chat/completions`."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    messages: list[Any] = Field(description="The conversation; text only.")
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="Only with `stream: true`.")

    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = Field(
        None, description="Older name of `max_completion_tokens`."
    )
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = Field(
        None, description="Bound on generated tokens; wins over `max_tokens`."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = Field(
        None, description="Extension: draw from the k likeliest tokens; 0 means all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Extension: drop tokens below this share of the likeliest one's."
    )
    seed: Annotated[int, Field(ge=MIN_INT64, le=MAX_INT64)] | None = None
    stop: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]],
            Field(max_length=MAX_STOPS, fail_fast=True),
            BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = Field(None, description="A string or up to four; the answer ends before the first met.")

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Annotated[Any, _only("auto", "none")] = Field(
        None, description="`none` leaves the tools out of the prompt."
    )
    parallel_tool_calls: Annotated[Any, _only(True)] = None

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        Field(
            None,
            description="Given to the chat template as `reasoning_effort`; `none` and `minimal` "
            "also as `enable_thinking: false`. Templates that know neither ignore it.",
        )
    )
    thinking: Thinking | None = Field(
        None, description="Given to the chat template as `enable_thinking`."
    )
    chat_template_kwargs: (
        Annotated[dict[str, Any], AfterValidator(_check_template_kwargs)] | None
    ) = Field(None, description="Extension: variables for the chat template; wins over both above.")

    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The end user, for accounting."
    )
    safety_identifier: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        None, description="Stands in for `user` where that is absent."
    )
    prompt_cache_key: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Groups the requests of one session, so their shared prefix is kept."
    )
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(
        None, description="A hint: prefixes are kept as long as there is room, whichever is said."
    )
    metadata: (
        Annotated[dict[str, str], BeforeValidator(_few_labels), AfterValidator(_check_labels)]
        | None
    ) = Field(
        None, description="Labels for a stored answer; as none is stored, they change nothing."
    )
    store: Annotated[Any, _only(False)] = Field(
        None, description="Answers are not stored: true is refused."
    )
    service_tier: Annotated[Any, _only("auto", "default")] = Field(
        None, description="There is one tier; asking for another is refused."
    )

    # Known to OpenAI's API, not yet to this server: only values that ask for nothing pass.
    n: Annotated[Any, _only(1)] = None
    frequency_penalty: Annotated[Any, _only(0, 0.0)] = None
    presence_penalty: Annotated[Any, _only(0, 0.0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    logprobs: Annotated[Any, _only(False)] = None
    top_logprobs: Annotated[Any, _only(0)] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"])] = None
    verbosity: Annotated[Any, _only("medium")] = None
    audio: Annotated[Any, _only()] = None
    prediction: Annotated[Any, _only()] = None
    web_search_options: Annotated[Any, _only()] = None
    moderation: Annotated[Any, _only()] = None
    prompt_cache_options: Annotated[Any, _only()] = None
    functions: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only("auto", "none")] = None
