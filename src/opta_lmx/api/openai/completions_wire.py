"""The text completion request as it stands on the wire; `generation` has the shared fields."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from opta_lmx.api.fields import MAX_INT32, Positive
from opta_lmx.api.openai.generation import GenerationFields

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


class CompletionRequest(GenerationFields):
    """Body of `POST /v1/completions`."""

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
    best_of: Positive | None = Field(
        None,
        description="Generate so many answers to each prompt and give the `n` whose tokens have "
        "the highest mean log-probability; all are counted. Above `n` not with `stream`.",
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = Field(
        None, description="Log-probabilities of each token and of so many likeliest ones."
    )
