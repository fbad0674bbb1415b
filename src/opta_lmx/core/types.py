"""What a model call is made of, independent of any dialect or engine."""

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool by the assistant; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True):
    """One turn after normalisation: `developer` became `system`, list content became text.

    `reasoning` is the thinking of an assistant's turn, shown to templates that want it back.
    `retold`: it retells a conversation, so it is nobody's instructions.
    `anchors` are offsets in `content`, in characters: its author says that what the prompt holds up
    to there will be sent again.
    """

    role: Role
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    retold: bool = False
    anchors: tuple[int, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is its JSON Schema.

    `strict`: its arguments are held to that schema while they are generated.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools are called: `auto` as the model likes, `required` at least one, `none`.

    `name` (with `required`) is the one tool that must be called.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None


class JsonOutput(msgspec.Struct, frozen=True):
    """The answer's text is JSON: of this schema, or any object where `schema` is None."""

    schema: dict[str, Any] | bool | None = None


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is drawn; `None` means "not said", filled by `resolve`.

    `temperature` 0 is greedy; `top_k` 0 means no limit; `seed` makes draws repeatable.
    `frequency_penalty` and `presence_penalty` (-2 to 2, 0: none) are subtracted from the logits
    of tokens the answer already holds, per occurrence and once; `repetition_penalty` (above 0,
    1: none) divides positive and multiplies negative logits of tokens in prompt and answer.
    llama.cpp cannot tell the prompt from the answer for `presence_penalty`, which there spares
    the prompt's tokens.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None

    def resolve(self, *fallbacks: "SamplingParams") -> "SamplingParams":
        """Fill unset fields from `fallbacks`, the first one that says a value winning."""
        values = msgspec.structs.asdict(self)
        for layer in fallbacks:
            for name, value in msgspec.structs.asdict(layer).items():
                if values[name] is None:
                    values[name] = value
        return SamplingParams(**values)


DEFAULT_SAMPLING = SamplingParams(
    temperature=0.7,
    top_p=1.0,
    top_k=0,
    min_p=0.05,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
)
"""Ours, last in the order request > preset > generation_config > ours.

OpenClaw sends no temperature, and small quantised models ramble at OpenAI's 1.0.
"""


class Prompt(msgspec.Struct, frozen=True):
    """What is to be continued: chat `messages` (rendered by the template), or `text`, or `ids`.

    `suffix` (with `text`): what follows the gap that is to be filled, for models that can.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    template_kwargs: dict[str, Any] = {}
    text: str | None = None
    ids: tuple[int, ...] | None = None
    suffix: str | None = None


class Filling(msgspec.Struct, frozen=True):
    """What a preset gave a request: its name, a digest of all that it says, the fields it filled.

    `digest` is empty for a preset that says no more than which model is meant.
    """

    name: str
    digest: str = ""
    fields: tuple[str, ...] = ()


class Places(msgspec.Struct, frozen=True):
    """Offsets in a prompt's tokens that are good places to start from again.

    `cuts` are where turns start, `anchors` up to where its author says that it will be sent again.
    """

    cuts: tuple[int, ...] = ()
    anchors: tuple[int, ...] = ()


NO_PLACES = Places()


class GenerationRequest(msgspec.Struct, frozen=True):
    """One model call, whatever dialect it came in.

    `n` answers are generated side by side. `max_tokens` None means "as far as the context
    allows"; `limit_field` is what the dialect calls it. `stop` None means "not said".
    `top_logprobs` None means no logprobs; 0 means the chosen token's only. `logit_bias` holds
    (token id, what is added to its logit, -100 to 100). `cache_key` groups requests of one
    session. `echo`: the prompt's own text is wanted back. `filled_by` is there where a preset
    was asked for, `adapter` where the model's name has one.
    """

    model: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    top_logprobs: int | None = None
    cache_key: str | None = None
    user: str | None = None
    n: int = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    output: JsonOutput | None = None
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    echo: bool = False
    limit_field: str = "max_tokens"
    filled_by: Filling | None = None
    adapter: str = ""


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One alternative at a position: token id, natural-log probability, and its bytes."""

    id: int
    logprob: float
    piece: bytes


class TokenEvent(msgspec.Struct, frozen=True):
    """One generated token of answer `index`.

    `piece` may be an incomplete UTF-8 sequence, or empty. `finish` is set on an answer's last.
    Log-probabilities are the model's own: before bias, penalties, grammar and temperature.
    """

    index: int
    id: int
    piece: bytes
    logprob: float | None = None
    top: tuple[TopLogprob, ...] | None = None
    finish: FinishReason | None = None


class Usage(msgspec.Struct, frozen=True):
    """Exact token counts; `cached_tokens` is the part of the prompt that was not recomputed.

    `reasoning_tokens` is the part of the completion that is thinking, marks included.
    `drafted_tokens` were guessed by a draft model, `accepted_tokens` of them are in the
    completion.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Speech(msgspec.Struct, frozen=True):
    """How a model writes what is not plain text.

    `tools` names a parser of `codec.tools`; `reasoning` a style of `codec.reasoning`, empty for
    a model that does not mark its thinking.
    """

    tools: str = "json"
    reasoning: str = ""


class Accepted(msgspec.Struct, frozen=True):
    """A call passed every gate, and this is what the model made of it.

    `thinking`: the prompt ends inside a block of reasoning, so the answer begins in it.
    `prompt_text` is there where the request asked for `echo`. `fingerprint` names everything
    besides the request that an answer depends on. `sampling` is how its tokens are drawn, whoever
    said so: request, preset or model.
    """

    model: str
    prompt_tokens: int
    max_tokens: int
    speech: Speech
    thinking: bool = False
    prompt_text: str | None = None
    fingerprint: str = ""
    sampling: SamplingParams = DEFAULT_SAMPLING
