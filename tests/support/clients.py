"""Official SDKs as the tests use them: strict about what they read, and never trying again."""

import anthropic
import openai


def strict_openai(url: str, timeout_s: float = 60) -> openai.OpenAI:
    """A client of the server at `url`; to be closed."""
    return openai.OpenAI(
        base_url=f"{url}/v1",
        api_key="unused",
        max_retries=0,
        timeout=timeout_s,
        _strict_response_validation=True,
    )


def strict_anthropic(url: str, timeout_s: float = 60) -> anthropic.Anthropic:
    """A client of the server at `url`; to be closed."""
    return anthropic.Anthropic(
        base_url=url,
        api_key="unused",
        max_retries=0,
        timeout=timeout_s,
        _strict_response_validation=True,
    )
