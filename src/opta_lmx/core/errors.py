"""The one flat list of error kinds. Dialects render them; no HTTP status lives here."""

from enum import StrEnum


class ErrorKind(StrEnum):
    """What went wrong, from the caller's point of view (at most 15 kinds)."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limit_exceeded"
    UNAVAILABLE = "unavailable"
    INSUFFICIENT_RESOURCES = "insufficient_resources"
    UPSTREAM_FAILED = "upstream_failed"
    INTERNAL = "internal_error"


class LmxError(Exception):
    """A typed failure that reaches the caller.

    Args:
        kind: which of the kinds above.
        message: one sentence for a person; never a traceback or a secret.
        code: finer machine-readable code; the kind's own value when absent.
        param: the request field at fault, dotted (`messages.0.content`).
        retry_after: seconds after which a retry is sensible.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.code = code or kind.value
        self.param = param
        self.retry_after = retry_after

    def again(self) -> "LmxError":
        """The same error as a new exception: one that is raised twice keeps every traceback."""
        return LmxError(
            self.kind,
            self.message,
            code=self.code,
            param=self.param,
            retry_after=self.retry_after,
        )


class UnknownFieldError(LmxError):
    """The request holds a field nobody knows; an operator may choose to let such pass.

    Args:
        param: where it stands, dotted.
    """

    def __init__(self, param: str) -> None:
        super().__init__(
            ErrorKind.UNSUPPORTED_PARAMETER, f"The parameter '{param}' is unknown.", param=param
        )


def unsupported(message: str, param: str) -> LmxError:
    """Build the error for a known field whose value cannot be honoured."""
    return LmxError(ErrorKind.UNSUPPORTED_PARAMETER, message, param=param)


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> LmxError:
    """Build the commonest error: the request itself is wrong."""
    return LmxError(ErrorKind.INVALID_REQUEST, message, param=param, code=code)
