"""Quantising watched in the terminal: by the running server, or by this process."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import msgspec
import typer

from opta_lmx.cli.client import ServerClient
from opta_lmx.cli.local import open_store
from opta_lmx.cli.session import Session
from opta_lmx.cli.terminal import console, note, printable, size
from opta_lmx.core.clock import SystemClock, block_for
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.quantise_jobs import ENDED, Wish
from opta_lmx.engine.quantising import open_quantising

_POLL_S = 0.2
_TENTHS = 10

Show = Callable[[dict[str, Any]], None]
"""Given a job's reports."""


def quantise(
    client: ServerClient, session: Session | None, wish: Wish, show: Show
) -> dict[str, Any]:
    """Have it done by the server, or where none answers, do it here; the job as it ended.

    Args:
        client: of the server.
        session: of the home to work in where no server answers; None fails then.
        wish: what to make.
        show: given the job's reports.

    Raises:
        LmxError: it was refused, or the server went away.
        KeyboardInterrupt: it was ended by Ctrl-C; nothing of it is left.
    """
    asked = {key: value for key, value in msgspec.to_builtins(wish).items() if value is not None}
    try:
        job = client.post("/admin/quantize", asked)
    except LmxError as error:
        if session is None or error.code != "server_unreachable":
            raise
        return asyncio.run(_here(session, wish, show))
    path = f"/admin/quantize/{job['job_id']}"
    try:
        return _followed(client, path, job, show)
    except KeyboardInterrupt:
        job = _followed(client, path, client.post(f"{path}/cancel", {}), show)
        if job["status"] == "completed":
            return job
        raise


def _followed(client: ServerClient, path: str, job: dict[str, Any], show: Show) -> dict[str, Any]:
    while job["status"] not in ENDED:
        show(job)
        block_for(_POLL_S)
        job = client.get(path)
    return job


async def _here(session: Session, wish: Wish, show: Show) -> dict[str, Any]:
    """Without a record: those of the home are its server's."""
    settings = session.settings
    store = open_store(session)
    store.sweep()
    planner = Planner(store, settings.engine, session.home, settings.models)
    jobs = open_quantising(
        *(planner, session.home, settings.models, NullTelemetry(), SystemClock()), recorded=False
    )
    job = await jobs.start(wish)
    try:
        async for report in jobs.watch(job):
            show(report)
    except asyncio.CancelledError:  # Ctrl-C
        await jobs.close()
        if job.record.status != "completed":
            raise
    return job.report()


def say_made(job: dict[str, Any]) -> None:
    """Say what was made. Raises LmxError when nothing was."""
    error = job.get("error")
    if error:
        raise LmxError(
            ErrorKind.INTERNAL, error["message"], code=error["code"], param=error.get("param")
        )
    made = job["result"]
    line = f"{job['name']} is in the store ({size(made['size_bytes'])}, "
    typer.echo(f"{line}{made['bits_per_weight']:.2f} bits per weight).")
    if made["kept_layers"]:
        count = made["kept_layers"]
        note(f"{count} layers are as they were: their width is no multiple of the group.")


@contextmanager
def shown(model: str) -> Generator[Show]:
    """Progress as a bar for people, as a line at each phase and tenth for logs."""
    screen = console(err=True)
    try:
        if screen.is_terminal:
            with screen.status(printable(model)) as status:
                yield lambda job: status.update(printable(_line(model, job)))
        else:
            yield _Lines(model).show
    except KeyboardInterrupt:
        note("Stopped; nothing of it is left.")
        raise typer.Exit(130) from None


class _Lines:
    """Progress for logs."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._last: tuple[object, ...] = ()

    def show(self, job: dict[str, Any]) -> None:
        """Print what is new since the last line."""
        seen = (job["status"], job["phase"], _share(job) // (100 // _TENTHS))
        if seen != self._last and job["status"] not in ENDED:
            self._last = seen
            typer.echo(printable(_line(self._model, job)), err=True)


def _line(model: str, job: dict[str, Any]) -> str:
    total = job["total_bytes"]
    amount = f" {_share(job)} % of {size(total)}" if total else ""
    layer = f" ({job['layer']})" if job["layer"] else ""
    return f"{model}: {job['phase'] or job['status']}{amount}{layer}"


def _share(job: dict[str, Any]) -> int:
    """Percent of the phase it is in."""
    return 100 * job["done_bytes"] // job["total_bytes"] if job["total_bytes"] else 0
