"""A decoded text completion request becomes one `GenerationRequest` for each prompt."""

from typing import Any, cast

import msgspec

from opta_lmx.api.fields import MAX_INT32, validated
from opta_lmx.api.json_body import Head, decode, read_head
from opta_lmx.api.openai.completions_wire import CompletionRequest
from opta_lmx.api.openai.generation import DEFAULT_MAX_CHOICES, sampling, wants_usage
from opta_lmx.api.values import bias_pairs
from opta_lmx.core.errors import invalid, unsupported
from opta_lmx.core.types import GenerationRequest, Prompt

DEFAULT_MAX_TOKENS = 16
"""OpenAI's; a client that says nothing counts on it."""


class CompletionCall(msgspec.Struct, frozen=True):
    """A parsed request: one entry of `requests` for each prompt, all alike but for it.

    `n` answers of each are wanted, out of `each` that are generated. `logprobs` None means that
    none were asked for. `generate` False: the prompts alone are wanted back.
    """

    requests: tuple[GenerationRequest, ...]
    n: int
    each: int
    logprobs: int | None
    stream: bool
    include_usage: bool
    echo: bool
    generate: bool


class CompletionParser:
    """Reads the body of a text completion request.

    Args:
        max_choices: the most answers of one call, over all prompts.
    """

    def __init__(self, max_choices: int = DEFAULT_MAX_CHOICES) -> None:
        self._max_choices = max_choices

    def head(self, body: bytes) -> Head:
        """What the first gate needs to know, whatever else is wrong with the body.

        Raises:
            LmxError: INVALID_REQUEST; the body is no JSON object, or names no model.
        """
        head = read_head(body)
        rest = decode(body, _head_decoder)
        prompts, n, each = _prompts_in(rest.prompt), _count(rest.n), _count(rest.best_of)
        counted_by = "prompt" if prompts > max(n, each) else "n" if n >= each else "best_of"
        answers = min(prompts * max(n, each), self._max_choices)
        return msgspec.structs.replace(head, answers=answers, counted_by=counted_by)

    def __call__(self, fields: dict[str, Any]) -> CompletionCall:
        """Read a decoded body.

        Raises:
            LmxError: `INVALID_REQUEST` or `UNSUPPORTED_PARAMETER`, with the dotted `param`.
        """
        wire = validated(CompletionRequest, fields)
        include_usage = wants_usage(wire)
        _check(wire)
        n = wire.n or 1
        each = max(n, wire.best_of or 1)
        # Counted before they are looked at: there may be a hundred thousand.
        self._check_count(_prompts_in(wire.prompt), n, each)
        prompts = _prompts(wire.prompt, wire.suffix)
        request = _request(wire, each)
        return CompletionCall(
            requests=tuple(msgspec.structs.replace(request, prompt=one) for one in prompts),
            n=n,
            each=each,
            logprobs=wire.logprobs,
            stream=bool(wire.stream),
            include_usage=include_usage,
            echo=bool(wire.echo),
            generate=wire.max_tokens != 0,
        )

    def _check_count(self, prompts: int, n: int, each: int) -> None:
        most = self._max_choices
        if prompts * each <= most:
            return
        if n > most:
            raise invalid(f"'n' must be at most {most}.", param="n")
        if each > most:
            raise invalid(f"'best_of' must be at most {most}.", param="best_of")
        raise invalid(
            f"'prompt' asks for {prompts * each} answers; one call gives at most {most}.",
            param="prompt",
        )


class _Head(msgspec.Struct):
    prompt: Any = None
    n: Any = None
    best_of: Any = None


_head_decoder = msgspec.json.Decoder(_Head)


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 1


def _prompts_in(prompt: object) -> int:
    """How many prompts there are; 1 for what is none at all."""
    if not isinstance(prompt, list):
        return 1
    items = cast("list[object]", prompt)
    return len(items) if items and isinstance(items[0], str | list) else 1


def _check(wire: CompletionRequest) -> None:
    if wire.best_of is not None and wire.best_of < (wire.n or 1):
        raise invalid("'best_of' must not be below 'n'.", param="best_of")
    if wire.stream and wire.best_of is not None and wire.best_of > (wire.n or 1):
        raise unsupported("'best_of' above 'n' cannot be streamed.", "best_of")
    if wire.echo and wire.logprobs is not None:
        raise unsupported("The log-probabilities of an echoed prompt are not measured.", "logprobs")
    if wire.max_tokens == 0 and not wire.echo:
        raise invalid("'max_tokens' of 0 needs 'echo' to be true.", param="max_tokens")


def _prompts(value: object, suffix: str | None) -> list[Prompt]:
    if value is None or isinstance(value, str):
        return [Prompt(text=value or "", suffix=suffix)]
    if not isinstance(value, list) or not value:
        raise invalid(
            "'prompt' must be a text, a list of token ids, or a list of either.", param="prompt"
        )
    items = cast("list[object]", value)
    if isinstance(items[0], str):
        return [_text(item, f"prompt.{i}", suffix) for i, item in enumerate(items)]
    if suffix is not None:
        raise unsupported("'suffix' needs a prompt that is text.", "suffix")
    if isinstance(items[0], list):
        return [_tokens(item, f"prompt.{i}") for i, item in enumerate(items)]
    return [_tokens(items, "prompt")]


def _text(item: object, at: str, suffix: str | None) -> Prompt:
    if not isinstance(item, str):
        raise invalid(f"'{at}' must be a string, as the first item is.", param=at)
    return Prompt(text=item, suffix=suffix)


def _tokens(item: object, at: str) -> Prompt:
    if not isinstance(item, list) or not item:
        raise invalid(f"'{at}' must be a list of at least one token id.", param=at)
    ids = cast("list[object]", item)
    for place, token in enumerate(ids):
        if type(token) is not int or not 0 <= token <= MAX_INT32:
            where = f"{at}.{place}"
            raise invalid(f"'{where}' must be a token id.", param=where)
    return Prompt(ids=tuple(cast("list[int]", ids)))


def _request(wire: CompletionRequest, each: int) -> GenerationRequest:
    """Everything but the prompt."""
    logprobs = wire.logprobs
    if logprobs is None and each > (wire.n or 1):
        logprobs = 0  # the best are found by them
    return GenerationRequest(
        model=wire.model,
        prompt=Prompt(),
        sampling=sampling(wire),
        max_tokens=wire.max_tokens or None,
        stop=None if wire.stop is None else tuple(wire.stop),
        top_logprobs=logprobs,
        user=wire.user or None,
        n=each,
        logit_bias=bias_pairs(wire.logit_bias),
        echo=bool(wire.echo),
    )
