"""The wording by which a client recognises an overflowing context."""

from opta_lmx.codec.limits import context_exceeded
from opta_lmx.core.errors import ErrorKind


def test_the_wording_that_clients_match_on() -> None:
    error = context_exceeded(8192, 9000, 256)
    assert error.message.startswith(
        "This model's maximum context length is 8192 tokens. However, you requested 9256 tokens"
    )
    assert "9000 in the messages, 256 in the completion" in error.message
    assert (error.kind, error.code, error.param) == (
        ErrorKind.CONTEXT_LENGTH_EXCEEDED,
        "context_length_exceeded",
        "messages",
    )
