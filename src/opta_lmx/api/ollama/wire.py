"""Ollama's requests as they stand on the wire: every field has a stated meaning or is refused."""

import math
import re
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from opta_lmx.api.fields import (
    MAX_INT32,
    MAX_INT64,
    ModelName,
    Penalty,
    Positive,
    Share,
    WireModel,
    only,
)
from opta_lmx.api.values import ObjectSchema, StopString, ToolName, as_list

MAX_TOOLS = 128
MAX_STOPS = 16

_DURATION = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:(?:ns|us|µs|ms|s|m|h))?")
_DURATIONS = re.compile(rf"(?:{_DURATION.pattern})+")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)?")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "": 1}
_FOR_GOOD_S = 3650 * 86_400.0


def _check_keep_alive(value: object) -> object:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and len(value) <= 64 and _DURATIONS.fullmatch(value):
        return value
    raise PydanticCustomError("keep_alive", "it should be seconds, or a duration such as '5m'")


def keep_s(keep_alive: object) -> float | None:
    """Seconds a model is to stay loaded, infinity for a negative time; None: nothing was said."""
    if isinstance(keep_alive, str):
        parts = _PART.findall(keep_alive)
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
        keep_alive = -seconds if keep_alive.startswith("-") else seconds
    if not isinstance(keep_alive, int | float):
        return None
    return abs(float(keep_alive)) if 0 <= keep_alive <= _FOR_GOOD_S else math.inf


def _check_format(value: object) -> object:
    if value is None or value in ("", "json") or isinstance(value, dict):
        return cast("object", value)
    raise PydanticCustomError("format", "it should be 'json' or a JSON Schema")


KeepAlive = Annotated[
    Any,
    AfterValidator(_check_keep_alive),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}),
]
Format = Annotated[
    Any,
    AfterValidator(_check_format),
    WithJsonSchema({"anyOf": [{"enum": ["", "json", None]}, {"type": "object"}]}),
]
Think = bool | Literal["low", "medium", "high", "max"]
_Stops = Annotated[
    list[StopString],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(as_list, json_schema_input_type=str | list[str]),
]
_KEEP = "How long the model may be idle from now on; below 0: for good."
_NOT_HERE = "How models are loaded is the operator's to configure: only null is accepted."


class Options(WireModel):
    """Options of generation; null everywhere means the model's own default."""

    num_predict: Annotated[int, Field(ge=-2, le=MAX_INT32)] | None = Field(
        None, description="Bound on generated tokens; 0 and below: as far as the window goes."
    )
    num_ctx: Positive | None = Field(
        None,
        description="The window the client counts on, in tokens: refused where the model's is "
        "smaller. A larger one is not made smaller.",
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT32)] | None = Field(
        None, description="Draw from the k likeliest tokens; 0 and below means all."
    )
    top_p: Share | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-1, le=MAX_INT64)] | None = Field(
        None, description="-1: a new one for each call."
    )
    stop: _Stops | None = Field(None, description=f"A string or up to {MAX_STOPS}.")
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Above 1 makes tokens of prompt and answer less likely."
    )
    repeat_last_n: Annotated[int, Field(ge=-1, le=MAX_INT32)] | None = Field(
        None,
        description="The penalty sees prompt and answer whole (-1) or nothing (0); other numbers "
        "are refused where `repeat_penalty` asks for one.",
    )
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    num_keep: Annotated[int, Field(ge=-1, le=MAX_INT32)] | None = Field(
        None, description="What is kept when a prompt is cut; none ever is."
    )

    typical_p: Annotated[Any, only(1.0, 1)] = None
    tfs_z: Annotated[Any, only(1.0, 1)] = None
    mirostat: Annotated[Any, only(0)] = None
    mirostat_tau: Annotated[Any, only()] = None
    mirostat_eta: Annotated[Any, only()] = None
    penalize_newline: Annotated[Any, only(True)] = None
    numa: Annotated[Any, only(False)] = Field(None, description=_NOT_HERE)
    num_batch: Annotated[Any, only()] = Field(None, description=_NOT_HERE)
    num_gpu: Annotated[Any, only()] = Field(None, description=_NOT_HERE)
    main_gpu: Annotated[Any, only()] = Field(None, description=_NOT_HERE)
    low_vram: Annotated[Any, only(False)] = Field(None, description=_NOT_HERE)
    f16_kv: Annotated[Any, only(True)] = Field(None, description=_NOT_HERE)
    logits_all: Annotated[Any, only(False)] = Field(None, description=_NOT_HERE)
    vocab_only: Annotated[Any, only(False)] = Field(None, description=_NOT_HERE)
    use_mmap: Annotated[Any, only()] = Field(None, description=_NOT_HERE)
    use_mlock: Annotated[Any, only(False)] = Field(None, description=_NOT_HERE)
    embedding_only: Annotated[Any, only(False)] = Field(None, description=_NOT_HERE)
    num_thread: Annotated[Any, only()] = Field(None, description=_NOT_HERE)


class Generation(WireModel):
    """What chat and generate have in common."""

    model: ModelName
    stream: bool | None = Field(None, description="True by default: one JSON object a line.")
    format: Format = Field(None, description="`json`, or the JSON Schema the answer must fit.")
    options: Options | None = None
    keep_alive: KeepAlive = Field(
        None,
        description="How long the model may be idle from now on before it is unloaded: seconds, "
        "or `5m`; below 0: for good. 0 with nothing to answer unloads it at once.",
    )
    think: Think | None = Field(
        None,
        description="Given to the chat template as `enable_thinking`, and a level also as "
        "`reasoning_effort`. A model that does not think refuses all but `false`.",
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Only with `logprobs: true`."
    )
    truncate: Annotated[Any, only(False)] = Field(
        None, description="A prompt beyond the window is refused, never cut."
    )
    shift: Annotated[Any, only(False)] = Field(
        None, description="An answer ends at the window; nothing is shifted out of it."
    )


class CalledFunction(WireModel):
    """A call's function and arguments."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    arguments: dict[str, Any] | None = None
    index: Annotated[int, Field(ge=0)] | None = None


class ToolCall(WireModel):
    """A call that the assistant made."""

    function: CalledFunction
    id: Annotated[str, StringConstraints(max_length=256)] | None = None
    type: Annotated[str | None, only("function")] = None


class Message(WireModel):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Annotated[Any, only([])] = Field(None, description="Text only.")
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_name: str | None = Field(None, description="The tool whose result this is.")
    tool_call_id: str | None = Field(None, description="The call whose result this is.")


class Function(WireModel):
    """A function the model may call."""

    name: ToolName
    description: str | None = None
    parameters: ObjectSchema | None = None


class Tool(WireModel):
    """A tool; only functions are known."""

    function: Function
    type: Annotated[str | None, only("function")] = None


class ChatRequest(Generation):
    """Body of `POST /api/chat`."""

    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(
        None, description="None at all loads the model, or with `keep_alive: 0` unloads it."
    )
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None


class GenerateRequest(Generation):
    """Body of `POST /api/generate`."""

    prompt: str | None = Field(
        None, description="None at all loads the model, or with `keep_alive: 0` unloads it."
    )
    suffix: str | None = Field(
        None, description="What follows the answer, for models that know fill-in-the-middle."
    )
    system: str | None = None
    raw: bool | None = Field(None, description="The prompt as it stands, without the template.")
    template: Annotated[Any, only("")] = None
    context: Annotated[Any, only([])] = Field(
        None, description="Answers carry none: use chat for a conversation."
    )
    images: Annotated[Any, only([])] = Field(None, description="Text only.")
    width: Annotated[Any, only()] = None
    height: Annotated[Any, only()] = None
    steps: Annotated[Any, only()] = None


class ShowRequest(WireModel):
    """Body of `POST /api/show`."""

    model: ModelName | None = None
    name: ModelName | None = Field(None, description="Older name of `model`.")
    verbose: Annotated[Any, only(False)] = Field(None, description="The vocabulary is not listed.")
    system: Annotated[Any, only("")] = None
    template: Annotated[Any, only("")] = None
    options: Annotated[Any, only({})] = None


class EmbedOptions(WireModel):
    """Options of embedding; the rest of `Options` has no meaning there."""

    num_ctx: Positive | None = Field(
        None, description="Inputs are cut at so many tokens, where they may be cut."
    )


class EmbedRequest(WireModel):
    """Body of `POST /api/embed`."""

    model: ModelName
    input: Annotated[
        Any,
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array"}]}),
    ] = Field(description="A text or a list of texts.")
    truncate: bool | None = Field(
        None, description="False refuses an input beyond the window; else its end is cut off."
    )
    dimensions: Positive | None = None
    options: EmbedOptions | None = None
    keep_alive: KeepAlive = Field(None, description=_KEEP)


class EmbeddingsRequest(WireModel):
    """Body of `POST /api/embeddings`, the older route for one text."""

    model: ModelName
    prompt: str
    options: EmbedOptions | None = None
    keep_alive: KeepAlive = Field(None, description=_KEEP)
