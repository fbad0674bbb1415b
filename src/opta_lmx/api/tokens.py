"""Tokens, their counts and the wait for them, in the shapes that surfaces share."""

from collections.abc import Sequence
from typing import Any

from opta_lmx.core.types import TokenEvent, Usage
from opta_lmx.scheduling.rules import Position

Json = dict[str, Any]

UNKNOWN_LOGPROB = -9999.0
"""OpenAI's word for a token so unlikely, or so placed, that no number was measured."""


def told_logprob(measured: float | None) -> float:
    """The number to tell for what was measured."""
    return UNKNOWN_LOGPROB if measured is None else measured


def token_json(piece: bytes, logprob: float | None) -> Json:
    """One token: its text, how likely it was, and its bytes."""
    text = piece.decode("utf-8", "replace")
    return {"token": text, "logprob": told_logprob(logprob), "bytes": [*piece]}


def token_logprobs(tokens: Sequence[TokenEvent]) -> list[Json]:
    """Tokens, each with its best alternatives, best first."""
    return [
        {
            **token_json(token.piece, token.logprob),
            "top_logprobs": [token_json(one.piece, one.logprob) for one in token.top or ()],
        }
        for token in tokens
    ]


def usage_json(usage: Usage) -> Json:
    """Exact counts."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            **_predictions(usage),
        },
    }


def _predictions(usage: Usage) -> Json:
    """What a draft model guessed, where one did: the rejected are in no other count."""
    if not usage.drafted_tokens:
        return {}
    return {
        "accepted_prediction_tokens": usage.accepted_tokens,
        "rejected_prediction_tokens": usage.drafted_tokens - usage.accepted_tokens,
    }


def queue_json(position: Position) -> Json:
    """Where a call stands in line: how many go before it, and about how long that takes (s)."""
    return {"position": position.ahead, "estimate_s": round(position.estimate_s, 1)}
