"""Child processes that work on models: listened to, and killed when nobody wants them."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from opta_lmx.engine.settle import settle

_LINE_BYTES = 4 << 20
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_NOTHING: Mapping[str, str] = {}


def _unheard(_: object) -> None:
    return None


async def run(
    module: str,
    options: Sequence[str],
    environment: Mapping[str, str] = _NOTHING,
    on_progress: Callable[[object], None] = _unheard,
) -> tuple[dict[str, Any], int]:
    """Run a program of ours to its end; a cancellation kills it, and is raised when it is dead.

    Args:
        module: what `python -m` is to run; it takes `--leash` and prints JSON objects, one a line.
        options: of its command line.
        environment: variables added to ours.
        on_progress: told what stands under `progress`; may raise `msgspec.DecodeError`.

    Returns:
        The last line that was no progress, empty for none, and the exit status.
    """
    begun: list[asyncio.subprocess.Process] = []

    async def start() -> None:
        begun.append(await _start(module, options, environment))

    try:
        await settle(start())
        said = await _listen(begun[0], on_progress)
        return said, await begun[0].wait()
    finally:
        for process in begun:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await settle(process.wait())


async def _start(
    module: str, options: Sequence[str], environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--leash", *options),
        stdin=asyncio.subprocess.PIPE,  # its end ends the child, however we end
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_LINE_BYTES,
        env={**os.environ, **environment, **_ONE_THREAD},
        # A terminal's Ctrl-C is for whoever watches; they end the child in good order.
        start_new_session=True,
    )


async def _listen(
    process: asyncio.subprocess.Process, on_progress: Callable[[object], None]
) -> dict[str, Any]:
    """Pass the progress on; return the last line that was none."""
    last: dict[str, Any] = {}
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            said = msgspec.json.decode(line, type=dict[str, Any])
            if "progress" in said:
                on_progress(said["progress"])
            else:
                last = said
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # native libraries may print
    return last
