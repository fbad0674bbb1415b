"""Errors about size whose wording clients match on, so it is written in one place."""

from opta_lmx.core.errors import ErrorKind, LmxError


class ContextLengthError(LmxError):
    """A request does not fit in the window, with the numbers for other dialects' wording.

    `prompt_tokens` is only a lower bound where `exact` is False.
    """

    def __init__(
        self, message: str, limit: int, prompt_tokens: int, *, exact: bool, param: str
    ) -> None:
        super().__init__(ErrorKind.CONTEXT_LENGTH_EXCEEDED, message, param=param)
        self.limit = limit
        self.prompt_tokens = prompt_tokens
        self.exact = exact


def context_exceeded(
    limit: int,
    prompt_tokens: int,
    completion_tokens: int = 0,
    *,
    exact: bool = True,
    param: str = "messages",
    why: str = "",
) -> ContextLengthError:
    """Build the error for a request that cannot fit in the model's window.

    The first two sentences are OpenAI's: OpenClaw recognises an overflow (and compacts its
    history) by them and by nothing else, not by the code.

    Args:
        limit: tokens the window holds.
        prompt_tokens: exact tokens of the rendered prompt.
        completion_tokens: tokens the caller asked to reserve for the answer.
        exact: False when `prompt_tokens` is only a lower bound.
        param: the request field that holds the prompt.
        why: what bounds the window, where that is not the model.
    """
    total = prompt_tokens + completion_tokens
    message = (
        f"This model's maximum context length is {limit} tokens. "
        f"However, you requested {'' if exact else 'at least '}{total} tokens "
        f"({prompt_tokens} in the {param}, {completion_tokens} in the completion). "
        f"Please reduce the length of the {param} or completion."
        f"{why and ' '}{why}"
    )
    return ContextLengthError(message, limit, prompt_tokens, exact=exact, param=param)


def input_exceeded(limit: int, tokens: int, param: str, *, exact: bool = True) -> LmxError:
    """Build the error for one input of an embedding or rerank call that is too long.

    Args:
        limit: tokens the window holds.
        tokens: those of the input, special ones included.
        param: the request field that holds it.
        exact: False when `tokens` is only a lower bound.
    """
    message = (
        f"This model's maximum context length is {limit} tokens. "
        f"However, you requested {'' if exact else 'at least '}{tokens} tokens "
        f"({tokens} in '{param}'). "
        "Please reduce the length of the input."
    )
    return LmxError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, message, param=param)
