"""What every dialect's errors have in common: status codes, and when to come back."""

import math
from collections.abc import Callable, Sequence

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import TOLD, Telemetry

RenderError = Callable[[LmxError], tuple[int, dict[str, str], bytes]]
"""Returns status, extra headers (without the content type) and the JSON body."""

STATUS: dict[ErrorKind, int] = {
    ErrorKind.INVALID_REQUEST: 400,
    ErrorKind.UNSUPPORTED_PARAMETER: 400,
    ErrorKind.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorKind.PAYLOAD_TOO_LARGE: 413,
    ErrorKind.REQUEST_TIMEOUT: 408,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.MODEL_NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.RATE_LIMITED: 429,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.INSUFFICIENT_RESOURCES: 507,
    ErrorKind.UPSTREAM_FAILED: 502,
    ErrorKind.INTERNAL: 500,
}
_WAITABLE = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.UNAVAILABLE})


def retry_seconds(error: LmxError) -> int | None:
    """Whole seconds (at least one) after which a retry is sensible; None where it is not."""
    if error.kind not in _WAITABLE:
        return None
    return max(1, math.ceil(error.retry_after or 1))


def headers(error: LmxError) -> dict[str, str]:
    """The headers every dialect's reply to this error carries."""
    seconds = retry_seconds(error)
    found = {} if seconds is None else {"Retry-After": str(seconds)}
    if error.kind is ErrorKind.UNAUTHENTICATED:
        found["WWW-Authenticate"] = "Bearer"
    return found


def unforeseen(error: BaseException, telemetry: Telemetry) -> LmxError:
    """Log a fault of our own, and return what its caller is told instead."""
    telemetry.log("error", "unforeseen error", kind=type(error).__name__, exc_info=error)
    setattr(error, TOLD, True)  # The server under us logs what comes through to it once more.
    return LmxError(ErrorKind.INTERNAL, "An internal error occurred.")


class Envelopes:
    """Chooses the error envelope by the path of a request.

    Args:
        default: the envelope of all other paths.
        by_prefix: (path prefix, envelope); the first that fits is taken.
        mask: takes keys out of what is told: a message may repeat what a request brought.
    """

    def __init__(
        self,
        default: RenderError,
        by_prefix: Sequence[tuple[str, RenderError]] = (),
        mask: Callable[[str], str] = str,
    ) -> None:
        self.mask = mask
        self._default = default
        self._by_prefix = tuple(by_prefix)

    def masked(self, error: LmxError) -> LmxError:
        """The error, without keys in what of it is told."""
        error.message = self.mask(error.message)
        error.param = error.param and self.mask(error.param)
        return error

    def render(self, path: str, error: LmxError) -> tuple[int, dict[str, str], bytes]:
        """Return status, extra headers and body in the dialect that `path` speaks."""
        error = self.masked(error)
        for prefix, renderer in self._by_prefix:
            if path.startswith(prefix):
                return renderer(error)
        return self._default(error)
