"""The chat request as it stands on the wire: every field has a stated meaning or is refused.

`messages` stays raw here: `codec.normalise` checks it and names what is wrong by position.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from opta_lmx.api.fields import OTHER, TEXT, Positive, WireModel, only, text_or_other
from opta_lmx.api.openai.generation import GenerationFields
from opta_lmx.api.values import (
    CacheRetention,
    Effort,
    Labels,
    ObjectSchema,
    TemplateKwargs,
    ToolName,
)

MAX_TOOLS = 128

_Included = Annotated[str, only("reasoning.encrypted_content")]


class Function(WireModel):
    """A function the model may call."""

    name: ToolName
    description: str | None = None
    parameters: ObjectSchema | None = Field(
        None, description="JSON Schema of the arguments: an object. Absent: no arguments."
    )
    strict: bool | None = Field(
        None, description="Hold the arguments to the schema while they are generated."
    )


class Tool(WireModel):
    """A tool; only functions are known."""

    type: Annotated[str, only("function")]
    function: Function


class FunctionName(WireModel):
    """A tool's name."""

    name: str


class NamedTool(WireModel):
    """One tool, by name."""

    type: Annotated[str, only("function")]
    function: FunctionName


class AllowedTools(WireModel):
    """Some of the tools: `auto` lets the model choose among them, `required` makes it call one."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class ToolChoiceObject(WireModel):
    """A tool that must be called, or the tools that may be."""

    type: Annotated[str, only("function", "allowed_tools")]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(TEXT)]
    | Annotated[ToolChoiceObject, Tag(OTHER)],
    Discriminator(text_or_other),
]


class JsonSchema(WireModel):
    """A named schema for the answer."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(
        None, description="The schema is enforced whichever is said; a false one is no laxer."
    )


class ResponseFormat(WireModel):
    """What the answer's text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Thinking(WireModel):
    """Anthropic's switch, which some OpenAI clients send: becomes `enable_thinking`."""

    type: Literal["enabled", "disabled"]


class Reasoning(WireModel):
    """The Responses API's switch, which some clients send to chat as well."""

    effort: Effort | None = Field(None, description="As `reasoning_effort`, which wins over it.")
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="Thinking is given back whole, whichever is said."
    )


class ChatCompletionRequest(GenerationFields):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Any] = Field(description="The conversation; text only.")
    max_tokens: Positive | None = Field(None, description="Older name of `max_completion_tokens`.")
    max_completion_tokens: Positive | None = Field(
        None, description="Bound on generated tokens; wins over `max_tokens`."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Only with `logprobs: true`."
    )
    response_format: ResponseFormat | None = None

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = Field(
        None, description="`none` leaves the tools out of the prompt."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="False: the answer ends after its first call."
    )

    reasoning_effort: Effort | None = Field(
        None,
        description="Given to the chat template as `reasoning_effort`; `none` and `minimal` "
        "also as `enable_thinking: false`. Templates that know neither ignore it.",
    )
    reasoning: Reasoning | None = None
    thinking: Thinking | None = Field(
        None, description="Given to the chat template as `enable_thinking`."
    )
    include: Annotated[list[_Included], Field(fail_fast=True)] | None = Field(
        None, description="Thinking is never encrypted here: it comes as `reasoning_content`."
    )
    chat_template_kwargs: TemplateKwargs | None = Field(
        None, description="Extension: variables for the chat template; wins over all above."
    )

    safety_identifier: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        None, description="Stands in for `user` where that is absent."
    )
    prompt_cache_key: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Groups the requests of one session, so their shared prefix is kept."
    )
    prompt_cache_retention: CacheRetention | None = Field(
        None, description="A hint: prefixes are kept as long as there is room, whichever is said."
    )
    metadata: Labels | None = Field(
        None, description="Labels for a stored answer; as none is stored, they change nothing."
    )
    client_metadata: Labels | None = Field(
        None, description="Labels of the client's own; they change nothing."
    )
    store: Annotated[Any, only(False)] = Field(
        None, description="Chat answers are not stored: true is refused."
    )
    service_tier: Annotated[Any, only("auto", "default")] = Field(
        None, description="There is one tier; asking for another is refused."
    )

    # Known to OpenAI's API, not to this server: only values that ask for nothing pass.
    modalities: Annotated[Any, only(["text"])] = None
    verbosity: Annotated[Any, only("medium")] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None
    moderation: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only()] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("auto", "none")] = None
