"""Requests of the Responses API as they stand on the wire; a field has a meaning or is refused.

Input items stay raw here: `items` checks them and names what is wrong by position.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, WithJsonSchema

from opta_lmx.api.fields import (
    OTHER,
    TEXT,
    ModelName,
    Penalty,
    Positive,
    Share,
    Temperature,
    WireModel,
    only,
    text_or_other,
)
from opta_lmx.api.values import CacheRetention, Effort, Labels, ObjectSchema, ToolName

MAX_TOOLS = 128
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"

ResponseId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
CacheKey = Annotated[str, StringConstraints(max_length=64)]
Detail = Literal["auto", "concise", "detailed"]

_INPUT: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "object"}},
        {"type": "null"},
    ]
}

_Included = Annotated[str, only(LOGPROBS, ENCRYPTED)]


class FunctionTool(WireModel):
    """A function the model may call."""

    type: Annotated[str, only("function")]
    name: ToolName
    description: str | None = None
    parameters: ObjectSchema | None = Field(
        None, description="JSON Schema of the arguments: an object. Absent: no arguments."
    )
    strict: bool | None = Field(
        None,
        description="Hold the arguments to the schema while they are generated. Unsaid: done "
        "for schemas that require every property and allow no other.",
    )
    output_schema: Annotated[Any, only()] = None
    defer_loading: Annotated[Any, only(False)] = None
    allowed_callers: Annotated[Any, only(["direct"])] = None
    async_: Annotated[Any, only(False)] = Field(None, alias="async")


class NamedTool(WireModel):
    """One tool, by name."""

    type: Annotated[str, only("function")]
    name: str


class ToolChoiceObject(WireModel):
    """A function that must be called, or (`allowed_tools`) the functions that may be."""

    type: Annotated[str, only("function", "allowed_tools")]
    name: str | None = None
    mode: Literal["none", "auto", "required"] | None = None
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(TEXT)]
    | Annotated[ToolChoiceObject, Tag(OTHER)],
    Discriminator(text_or_other),
]


class TextFormat(WireModel):
    """What the answer's text must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(
        None, description="The schema is enforced whichever is said; a false one is no laxer."
    )


class Text(WireModel):
    """Options of the answer's text."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, only("medium")] = Field(
        None, description="Templates know no such switch: only `medium` is accepted."
    )


class Reasoning(WireModel):
    """Options of the model's thinking."""

    effort: Effort | None = Field(
        None,
        description="Given to the chat template as `reasoning_effort`; `none` and `minimal` "
        "also as `enable_thinking: false`. Templates that know neither ignore it.",
    )
    summary: Detail | None = Field(
        None, description="Thinking is given back whole as the summary, whichever is said."
    )
    generate_summary: Detail | None = Field(None, description="Older name of `summary`.")
    context: Annotated[Any, only("auto")] = None
    mode: Annotated[Any, only("standard")] = None


class StreamOptions(WireModel):
    """Options of a streamed answer."""

    include_obfuscation: Annotated[Any, only(False)] = Field(
        None, description="No padding is ever sent: only false is accepted."
    )


class Asked(WireModel):
    """What every request about a conversation carries."""

    model: ModelName
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(
        None, description="A user's message, or the items of a conversation; text only."
    )
    instructions: str | None = Field(
        None, description="A system message before all; not carried over to the next response."
    )
    previous_response_id: ResponseId | None = Field(
        None, description="The stored response that this one continues."
    )
    prompt_cache_key: CacheKey | None = Field(
        None, description="Groups the requests of one session, so their shared prefix is kept."
    )


class Conversing(Asked):
    """What a model call and the counting of its tokens have in common."""

    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = Field(
        None, description="`none`, `auto`, `required`, or which functions; `none` offers no tool."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="False: the answer ends after its first call."
    )
    text: Text | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="`auto` drops the oldest turns of a conversation that does not fit; "
        "otherwise it is refused.",
    )
    conversation: Annotated[Any, only()] = None


class CreateResponse(Conversing):
    """Body of `POST /v1/responses`."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = Field(
        None, description="Answer at once, work on; needs `store`, and no `stream`."
    )
    store: bool | None = Field(None, description="Keep the response; unsaid: it is kept.")
    max_output_tokens: Positive | None = None
    max_tool_calls: Positive | None = Field(
        None, description="The answer ends after this many calls."
    )
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[list[_Included], Field(fail_fast=True)] | None = Field(
        None,
        description=f"`{LOGPROBS}`: log-probabilities of the text. `{ENCRYPTED}`: thinking also "
        "in a form that a client who stores nothing can send back.",
    )
    metadata: Labels | None = Field(None, description="Labels kept with the response.")
    client_metadata: Labels | None = Field(
        None, description="Labels of the client's own; they change nothing."
    )
    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="Names the client within its key, where no header does."
    )
    safety_identifier: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        None, description="Stands in for `user` where that is absent."
    )
    prompt_cache_retention: CacheRetention | None = Field(
        None, description="A hint: prefixes are kept as long as there is room, whichever is said."
    )
    service_tier: Literal["auto", "default"] | None = Field(
        None, description="There is one tier; asking for another is refused."
    )

    # Known to OpenAI's API, not to this server: only values that ask for nothing pass.
    prompt: Annotated[Any, only()] = None
    context_management: Annotated[Any, only([])] = None
    moderation: Annotated[Any, only()] = None
    access_programs: Annotated[Any, only()] = None
    background_options: Annotated[Any, only()] = None
    image: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only()] = None


class CountTokens(Conversing):
    """Body of `POST /v1/responses/input_tokens`."""

    personality: Annotated[Any, only()] = None


class CompactResponse(Asked):
    """Body of `POST /v1/responses/compact`."""

    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_retention: CacheRetention | None = Field(
        None, description="A hint: prefixes are kept as long as there is room, whichever is said."
    )
    image: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only()] = None
