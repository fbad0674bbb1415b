"""LM Studio's error envelope: a broad type, the message, and where known code and parameter.

What a download would take stands beside them where it has to be confirmed: LM Studio's clients
know no status for that, and take every one they know for a download that goes on by itself.
"""

import msgspec

from opta_lmx.api.errors import STATUS, headers, retry_seconds
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.offers import Pending

_INVALID = "invalid_request"
_TYPES: dict[ErrorKind, str] = {
    ErrorKind.MODEL_NOT_FOUND: "model_not_found",
    ErrorKind.RATE_LIMITED: "unknown",
    ErrorKind.UNAVAILABLE: "unknown",
    ErrorKind.INSUFFICIENT_RESOURCES: "internal_error",
    ErrorKind.UPSTREAM_FAILED: "internal_error",
    ErrorKind.INTERNAL: "internal_error",
}
_ENCODER = msgspec.json.Encoder()


class Confirmation(msgspec.Struct):
    """What is to be confirmed, and how: the same request once more, with this token in it."""

    confirmation_token: str
    expires_in_s: int
    estimated_bytes: int
    held_bytes: int
    free_disk_bytes: int
    licence: str


class ConfirmationRequiredError(LmxError):
    """A download that is so large that it does not begin unasked.

    Args:
        pending: what waits for the confirmation.
        expires_s: seconds for which it does.
    """

    def __init__(self, pending: Pending, expires_s: int) -> None:
        offer = pending.offer
        super().__init__(
            ErrorKind.CONFLICT,
            f"'{offer.name}' takes {offer.total_bytes / 1e9:.1f} GB, and nothing is fetched yet. "
            "To fetch it, send the same request once more with "
            f'"confirmation_token": "{pending.token}" within {expires_s} seconds.',
            code="confirmation_required",
            param="confirmation_token",
        )
        self.confirmation = Confirmation(
            confirmation_token=pending.token,
            expires_in_s=expires_s,
            estimated_bytes=offer.total_bytes,
            held_bytes=offer.held_bytes,
            free_disk_bytes=pending.free_bytes,
            licence=offer.licence,
        )


class _Error(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    confirmation: Confirmation | None = None


class _Envelope(msgspec.Struct):
    error: _Error


def render(error: LmxError) -> tuple[int, dict[str, str], bytes]:
    """Return status, extra headers (without the content type) and the JSON body."""
    kind = _TYPES.get(error.kind, _INVALID)
    if error.code == "download_not_found":
        kind = "job_not_found"
    asked = error.confirmation if isinstance(error, ConfirmationRequiredError) else None
    inner = _Error(kind, error.message, error.code, error.param, retry_seconds(error), asked)
    return STATUS[error.kind], headers(error), _ENCODER.encode(_Envelope(inner))
