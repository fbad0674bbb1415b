"""Decoded Ollama requests become one `GenerationRequest`, or one typed error naming the fault."""

import re
from typing import Any, cast

import msgspec

from opta_lmx.api.fields import validated
from opta_lmx.api.json_body import Head, read_head
from opta_lmx.api.ollama import wire
from opta_lmx.api.ollama.messages import messages
from opta_lmx.api.tools import checked_tools
from opta_lmx.codec.constraints import check
from opta_lmx.core.errors import invalid, unsupported
from opta_lmx.core.types import (
    GenerationRequest,
    JsonOutput,
    Message,
    Prompt,
    SamplingParams,
    Tool,
)

LATEST = ":latest"
_NO_TIME = re.compile(r"-?0*\.?0*[a-zµ]*")


class Call(msgspec.Struct, frozen=True):
    """A parsed chat or generate request.

    `name` is the model as the client calls it, `keep_s` how long it is to stay. `request` is None
    where there is nothing to answer: then the model is loaded, or unloaded. `window` is what the
    client counts on. `think`: the answer should begin with thinking, which not every model can.
    """

    name: str
    request: GenerationRequest | None
    stream: bool
    unload: bool
    window: int | None
    keep_s: float | None = None
    think: bool = False


def model_of(name: str) -> str:
    """The reference behind Ollama's name: its tag `latest` says nothing."""
    return name.removesuffix(LATEST) or name


def head(body: bytes) -> Head:
    """What the first gate needs to know. Raises LmxError."""
    found = read_head(body)
    return msgspec.structs.replace(found, model=model_of(found.model), answers=1)


def parse_chat(fields: dict[str, Any]) -> Call:
    """Read a decoded `/api/chat` body. Raises LmxError with the dotted `param`."""
    chat = validated(wire.ChatRequest, fields)
    if not chat.messages:
        return _call(chat, None)
    prompt = Prompt(
        messages=messages(chat.messages),
        tools=_tools(chat.tools or []),
        template_kwargs=_thinking(chat.think),
    )
    return _call(chat, prompt)


def parse_generate(fields: dict[str, Any]) -> Call:
    """Read a decoded `/api/generate` body. Raises LmxError with the dotted `param`."""
    wanted = validated(wire.GenerateRequest, fields)
    text, suffix = wanted.prompt or "", wanted.suffix or None
    if wanted.system and (wanted.raw or suffix):
        raise unsupported("'system' has no place in a prompt without the template.", "system")
    if not text and suffix is None:
        return _call(wanted, None)
    if wanted.think and (wanted.raw or suffix):
        raise unsupported("'think' has no place in a prompt without the template.", "think")
    if wanted.raw or suffix is not None:
        return _call(wanted, Prompt(text=text, suffix=suffix))
    turns = [Message("system", wanted.system)] if wanted.system else []
    turns.append(Message("user", text))
    return _call(wanted, Prompt(messages=tuple(turns), template_kwargs=_thinking(wanted.think)))


def _call(wanted: wire.Generation, prompt: Prompt | None) -> Call:
    if wanted.top_logprobs and not wanted.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    options = wanted.options or wire.Options.model_validate({})
    request = None if prompt is None else _request(wanted, options, prompt)
    return Call(
        name=wanted.model,
        request=request,
        stream=wanted.stream is not False,
        unload=_no_time(wanted.keep_alive),
        window=options.num_ctx,
        keep_s=wire.keep_s(wanted.keep_alive),
        think=bool(wanted.think),
    )


def _request(wanted: wire.Generation, options: wire.Options, prompt: Prompt) -> GenerationRequest:
    predict = options.num_predict or 0
    request = GenerationRequest(
        model=model_of(wanted.model),
        prompt=prompt,
        sampling=_sampling(options),
        max_tokens=predict if predict > 0 else None,
        limit_field="options.num_predict",
        stop=None if options.stop is None else tuple(options.stop),
        top_logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None,
        output=_output(wanted.format),
    )
    check(request, output="format", tools="tools")
    return request


def _sampling(options: wire.Options) -> SamplingParams:
    seed = options.seed
    return SamplingParams(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=None if options.top_k is None else max(options.top_k, 0),
        min_p=options.min_p,
        seed=None if seed == -1 else seed,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        repetition_penalty=_repetition(options),
    )


def _repetition(options: wire.Options) -> float | None:
    penalty, reach = options.repeat_penalty, options.repeat_last_n
    if penalty is None or penalty == 1 or reach is None or reach == -1:
        return penalty
    if reach == 0:
        return 1.0
    raise unsupported(
        "'options.repeat_last_n' must be -1 or 0: the penalty sees the whole text or nothing.",
        "options.repeat_last_n",
    )


def _output(wanted: object) -> JsonOutput | None:
    if wanted in (None, ""):
        return None
    return JsonOutput(cast("dict[str, Any]", wanted)) if isinstance(wanted, dict) else JsonOutput()


def _thinking(think: wire.Think | None) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    return {"enable_thinking": True, "reasoning_effort": think}


def _tools(tools: list[wire.Tool]) -> tuple[Tool, ...]:
    functions = [tool.function for tool in tools]
    return checked_tools(
        (Tool(f.name, f.description or "", f.parameters or {}) for f in functions),
        "tools.{}.function.name",
    )


def _no_time(keep_alive: object) -> bool:
    """True for a duration of nothing, as a number or a text."""
    if isinstance(keep_alive, str):
        return _NO_TIME.fullmatch(keep_alive) is not None
    return keep_alive is not None and keep_alive == 0
