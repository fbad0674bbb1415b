"""Runs the GGUF to MLX converter as a child process, once per model."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.settle import settle
from opta_lmx.models.store import ModelEntry, ModelStore


async def convert(store: ModelStore, entry: ModelEntry) -> None:
    """Make the MLX conversion of a GGUF model unless it exists.

    Raises:
        LmxError: the converter refused the file (its own code) or ended badly.
    """
    if store.has_conversion(entry.name):
        return
    begun: list[Path] = []

    def begin() -> None:
        begun.append(store.begin_conversion(entry.name))

    try:
        await settle(asyncio.to_thread(begin))
        await _run_converter(entry.path, begun[0])
        await settle(asyncio.to_thread(store.finish_conversion, entry.name, begun[0]))
    finally:
        for work in begun:
            await asyncio.to_thread(store.abandon, work)


async def _run_converter(source: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "opta_lmx.backends.convert",
        "--gguf",
        str(source),
        "--out",
        str(target),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise _refusal(output)


def _refusal(output: bytes) -> LmxError:
    """The converter's last line says what was wrong."""
    code, message = "conversion_failed", "the converter ended without saying why"
    for line in reversed(output.splitlines()):
        try:
            error = msgspec.json.decode(line).get("error")
        except (msgspec.DecodeError, AttributeError):
            continue
        if error:
            code, message = str(error.get("code", code)), str(error.get("message", message))
            break
    return LmxError(
        ErrorKind.INVALID_REQUEST,
        f"The model cannot be converted to MLX: {message}",
        code=code,
        param="model",
    )
