"""`make bench`: this server beside mlx_lm.server, a bare loop and llama-server.

Same weights, same prompts, in turn, in one run. The exit code tells of failures only: ratios
depend on the machine and are for reading.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import loop, tables
from benchmarks.arrivals import Plan
from benchmarks.contest import Contest, Note, Round, Scenario, failures
from benchmarks.measure import measure
from benchmarks.peers import (
    Command,
    Peer,
    StartError,
    llama_server,
    mlx_lm_server,
    opta_lmx,
    running,
)
from benchmarks.prompts import CalibrationError, PromptMaker, calibrate
from benchmarks.raw_batch import RawLoop
from benchmarks.report import save, wide_console

_SLOTS = 8
_GGUF_CONTEXT = 2048


class Report(msgspec.Struct):
    """Everything a run gave, for the JSON file."""

    machine: dict[str, str]
    mlx: list[Round] = []
    gguf: list[Round] = []
    skipped: list[str] = []


def scenarios(quick: bool, max_tokens: int) -> list[Scenario]:
    """What is played: one stream, eight at once, eight staggered, one into a busy batch."""
    few = 1 if quick else 2
    return [
        Scenario("c1", Plan(1, 2 * few, max_tokens), raw=True),
        Scenario("c8 burst", Plan(8, 8 * few, max_tokens), raw=True),
        Scenario("c8 staggered", Plan(8, 16 * few, max_tokens, arrival="staggered")),
        Scenario("busy", Plan(8, 4 * few, 4 * max_tokens, arrival="busy")),
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="about a minute; coarser figures")
    add("--rounds", type=int, help="the first is dropped (default 6, quick 3)")
    add("--prompt-tokens", type=int, default=128)
    add("--max-tokens", type=int, default=64)
    add("--only", choices=("mlx", "gguf"), help="one of the two comparisons")
    add("--gguf", type=Path, help="GGUF file to compare with llama-server (default: starter)")
    add("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="llama.cpp's")
    add("--self-check", action="store_true", help="mlx_lm.server against itself: shows the noise")
    return parser.parse_args(arguments)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    names = ("mlx", "mlx-lm", "xllamacpp", "uvicorn", "uvloop")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    found |= {"cores": str(os.cpu_count()), "load": load}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


class Runner:
    """One comparison run: makes the scratch home, starts both sides, plays, prints."""

    def __init__(self, options: argparse.Namespace, console: Console, scratch: Path) -> None:
        self._options = options
        self._console = console
        self._scratch = scratch
        self._rounds: int = options.rounds or (3 if options.quick else 6)
        self.report = Report(machine())

    def mlx(self) -> None:
        """The tiny model on MLX: this server, mlx_lm.server and the bare loop."""
        from tests.support.tiny import tiny_llama

        folder = tiny_llama()
        theirs = mlx_lm_server(folder, self._scratch)
        ours = theirs if self._options.self_check else self._ours(folder, "tiny", "mlx")
        self.report.mlx = self._compare(ours, theirs, folder)

    def gguf(self) -> None:
        """The starter on llama.cpp: this server and llama-server."""
        path = self._options.gguf or starter_file()
        if path is None:
            return self._skip("GGUF: the starter model is not in the store (pull it first)")
        theirs = llama_server(path, _SLOTS, self._options.threads, _GGUF_CONTEXT)
        if theirs is None:
            return self._skip("GGUF: no llama-server on PATH")
        self.report.gguf = self._compare(self._ours(path, "gguf", "gguf"), theirs, None)
        return None

    def _skip(self, why: str) -> None:
        self._console.print(f"skipped: {why}")
        self.report.skipped.append(why)

    def _ours(self, source: Path, name: str, backend: str) -> Command:
        from opta_lmx.models.store import ModelStore

        home = self._scratch / f"home-{backend}"
        store = ModelStore(home / "models")
        store.sweep()
        store.add(source, name)
        settings = {"LMX_ENGINE__BACKEND": backend, "LMX_ENGINE__SLOTS": str(_SLOTS)}
        if backend == "gguf":
            settings["LMX_ENGINE__THREADS"] = str(self._options.threads)
            settings["LMX_ENGINE__CONTEXT"] = str(_GGUF_CONTEXT)
        return opta_lmx(name, home, settings)

    def _compare(self, ours: Command, theirs: Command, raw: Path | None) -> list[Round]:
        with ExitStack() as stack:
            note = self._console.status(f"starting {ours.name} and {theirs.name}")
            stack.enter_context(note)
            sides = [stack.enter_context(running(side, self._scratch)) for side in (ours, theirs)]
            bare = None if raw is None else stack.enter_context(RawLoop(raw, self._scratch))
            rounds = loop.run(self._play(sides, bare, note.update))
        tables.show(self._console, theirs.name, rounds)
        return rounds

    async def _play(self, sides: list[Peer], raw: RawLoop | None, note: Note) -> list[Round]:
        options = self._options
        words = [(await calibrate(peer.target)).words(options.prompt_tokens) for peer in sides]
        seed = str(time.time())
        for peer in sides:
            note(f"warming up {peer.name}")
            warm = PromptMaker(f"{seed}/warm", words[0])
            await measure(peer.target, Plan(_SLOTS, _SLOTS, 8), warm)
        contest = Contest(sides[0], sides[1], raw, words[0], seed)
        return await contest.play(scenarios(options.quick, options.max_tokens), self._rounds, note)


def starter_file() -> Path | None:
    """The starter's GGUF file in this user's store, None where it was never pulled."""
    from opta_lmx.models.store import ModelStore

    home = Path(os.environ.get("LMX_HOME") or Path.home() / ".opta-lmx")
    root = home / "models"
    entry = ModelStore(root).find("starter") if root.is_dir() else None
    return None if entry is None else entry.path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 on failures."""
    options = parse(arguments)
    console = wide_console()
    with tempfile.TemporaryDirectory(prefix="lmx-bench-") as scratch:
        runner = Runner(options, console, Path(scratch))
        try:
            if options.only != "gguf":
                runner.mlx()
            if options.only != "mlx" and not options.self_check:
                runner.gguf()
        except (StartError, CalibrationError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    console.print(f"saved {save('compare', runner.report)}")
    failed = failures(runner.report.mlx) + failures(runner.report.gguf)
    for line in failed:
        console.print(f"[red]failed:[/red] {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
