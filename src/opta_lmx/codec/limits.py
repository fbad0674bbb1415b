"""Errors about size whose wording clients match on, so it is written in one place."""

from opta_lmx.core.errors import ErrorKind, LmxError


def context_exceeded(
    limit: int, prompt_tokens: int, completion_tokens: int = 0, *, exact: bool = True
) -> LmxError:
    """Build the error for a request that cannot fit in the model's window.

    The first two sentences are OpenAI's: OpenClaw recognises an overflow (and compacts its
    history) by them and by nothing else, not by the code.

    Args:
        limit: tokens the window holds.
        prompt_tokens: exact tokens of the rendered prompt.
        completion_tokens: tokens the caller asked to reserve for the answer.
        exact: False when `prompt_tokens` is only a lower bound.
    """
    total = prompt_tokens + completion_tokens
    message = (
        f"This model's maximum context length is {limit} tokens. "
        f"However, you requested {'' if exact else 'at least '}{total} tokens "
        f"({prompt_tokens} in the messages, {completion_tokens} in the completion). "
        "Please reduce the length of the messages or completion."
    )
    return LmxError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, message, param="messages")
