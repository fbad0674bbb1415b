"""The response object: everything but its output, from the request that asked for it."""

from typing import Any, get_args

from opta_lmx.api.responses import wire
from opta_lmx.api.responses.parse import Draft, is_strict
from opta_lmx.api.values import Effort
from opta_lmx.core.types import (
    DEFAULT_SAMPLING,
    Accepted,
    GenerationRequest,
    SamplingParams,
    Usage,
)

Json = dict[str, Any]


def blank(
    draft: Draft, response_id: str, created_s: int, filled: GenerationRequest | None = None
) -> Json:
    """A response that nothing is known of yet but what was asked.

    Args:
        draft: the request.
        response_id: `resp_...`.
        created_s: seconds since the epoch, UTC.
        filled: the request with what its preset, the caller's key and this server say; as it was
            asked unless given.
    """
    body, asked = draft.body, filled or draft.request
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_s,
        "completed_at": None,
        "status": "queued",
        "incomplete_details": None,
        "model": body.model,
        "previous_response_id": body.previous_response_id,
        "instructions": body.instructions,
        "output": [],
        "error": None,
        "tools": [_tool(tool) for tool in body.tools or ()],
        "tool_choice": _choice(body.tool_choice),
        "truncation": body.truncation or "disabled",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "text": {"format": _format(body.text), "verbosity": "medium"},
        **_sampling(asked.sampling),
        "top_logprobs": body.top_logprobs or 0,
        "reasoning": _reasoning(body.reasoning, asked.prompt.template_kwargs),
        "usage": None,
        "max_output_tokens": asked.max_tokens,
        "max_tool_calls": body.max_tool_calls,
        "store": draft.stores,
        "background": bool(body.background),
        "service_tier": "default",
        "metadata": body.metadata or {},
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        **({} if body.user is None else {"user": body.user}),
    }


def accepted_fields(accepted: Accepted) -> Json:
    """What is known better once the model is there, which has defaults of its own."""
    return _sampling(accepted.sampling)


def _sampling(asked: SamplingParams) -> Json:
    """What is used, as far as it is known, else this server's own defaults."""
    used = asked.resolve(DEFAULT_SAMPLING)
    return {
        "temperature": used.temperature,
        "top_p": used.top_p,
        "presence_penalty": used.presence_penalty,
        "frequency_penalty": used.frequency_penalty,
    }


def _tool(tool: wire.FunctionTool) -> Json:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": is_strict(tool),
    }


def _choice(choice: wire.ToolChoice | None) -> str | Json:
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    if choice.type == "function":
        return {"type": "function", "name": choice.name}
    names = [{"type": "function", "name": tool.name} for tool in choice.tools or ()]
    return {"type": "allowed_tools", "tools": names, "mode": choice.mode or "auto"}


def _format(text: wire.Text | None) -> Json:
    wanted = None if text is None else text.format
    if wanted is None or wanted.type != "json_schema":
        return {"type": "text" if wanted is None else wanted.type}
    return {
        "type": "json_schema",
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema_,
        "strict": wanted.strict is not False,
    }


def _reasoning(reasoning: wire.Reasoning | None, kwargs: Json) -> Json:
    said = kwargs.get("reasoning_effort")
    effort = said if said in get_args(Effort) else None  # a template may have words of its own
    if reasoning is None:
        return {"effort": effort, "summary": None}
    return {
        "effort": reasoning.effort or effort,
        "summary": reasoning.summary or reasoning.generate_summary,
    }


def usage_of(usage: Usage) -> Json:
    """Exact counts; nothing is ever charged for writing to a cache."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
