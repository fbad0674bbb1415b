"""The text completion request as it stands on the wire; see `wire` for the rules."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, WithJsonSchema

from opta_lmx.api.fields import (
    MAX_INT32,
    ModelName,
    Penalty,
    Positive,
    Seed,
    Share,
    Temperature,
    WireModel,
)
from opta_lmx.api.openai.wire import StreamOptions
from opta_lmx.api.values import LogitBias, StopStrings

_TOKENS: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_INT32},
}
_PROMPT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        _TOKENS,
        {"type": "array", "minItems": 1, "items": _TOKENS},
        {"type": "null"},
    ]
}


class CompletionRequest(WireModel):
    """Body of `POST /v1/completions`."""

    model: ModelName
    prompt: Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)] = Field(
        description="Text, token ids, or a list of either: each gets `n` answers, in order. "
        "It is continued as it stands, without the chat template; null is the empty text."
    )
    suffix: str | None = Field(
        None, description="What follows the answer, for models that know fill-in-the-middle."
    )
    echo: bool | None = Field(
        None,
        description="Put the prompt's text before the answer; not together with `logprobs`.",
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = Field(
        None, description="Bound on generated tokens; 16 by default. 0 only with `echo`."
    )
    n: Positive | None = Field(None, description="Answers to each prompt, side by side.")
    best_of: Positive | None = Field(
        None,
        description="Generate so many answers to each prompt and give the `n` whose tokens have "
        "the highest mean log-probability; all are counted. Above `n` not with `stream`.",
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="Only with `stream: true`.")

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = Field(
        None, description="Extension: draw from the k likeliest tokens; 0 means all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Extension: drop tokens below this share of the likeliest one's."
    )
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Extension: above 1 makes tokens of prompt and answer less likely."
    )
    logit_bias: LogitBias | None = Field(
        None, description="Token ids (as strings) with what is added to their logits."
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = Field(
        None, description="Log-probabilities of each token and of so many likeliest ones."
    )
    stop: StopStrings | None = Field(
        None, description="A string or up to four; the answer ends before the first met."
    )
    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The end user, for accounting."
    )
