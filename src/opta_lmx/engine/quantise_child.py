"""The child process that quantises: how it is called, and what its last word means."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends.quantize.outcome import Outcome
from opta_lmx.backends.quantize.rules import Scheme
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.child import run
from opta_lmx.engine.quantise_jobs import Step

_KINDS = {
    "insufficient_disk": ErrorKind.INSUFFICIENT_RESOURCES,
    "remote_code_refused": ErrorKind.FORBIDDEN,
    "io_error": ErrorKind.INTERNAL,
}


async def quantise(
    source: Path,
    out: Path,
    scheme: Scheme,
    environment: Mapping[str, str],
    on_step: Callable[[Step], None],
) -> Outcome:
    """Run the child to its end; a cancellation kills it, and is raised when it is dead.

    Raises:
        LmxError: the child refused the model (its own code), or `quantise_failed`.
    """
    options = (
        *("--source", str(source), "--out", str(out), "--mode", scheme.mode),
        *("--bits", str(scheme.bits), "--group-size", str(scheme.group_size)),
    )

    def heard(progress: object) -> None:
        on_step(msgspec.convert(progress, Step))

    said, status = await run("opta_lmx.backends.quantize", options, environment, heard)
    if "done" in said:
        return msgspec.convert(said["done"], Outcome)
    raise _refusal(said.get("error"), status)


def _refusal(error: dict[str, Any] | None, status: int) -> LmxError:
    if error is None:
        return LmxError(
            ErrorKind.INTERNAL,
            f"The quantising process ended without a word (status {status}).",
            code="quantise_failed",
        )
    code = str(error.get("code"))
    return LmxError(
        _KINDS.get(code, ErrorKind.INVALID_REQUEST),
        str(error.get("message")),
        code=code,
        param=error.get("param"),
    )
