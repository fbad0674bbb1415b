"""Let the real OpenClaw take turns against a server of this checkout, undisturbed and disturbed.

Four ways of speaking (three APIs, and OpenClaw's own LM Studio provider from onboarding on) times
four courses: plain, a 429 first, the model's worker killed in mid-stream, a context overflow. The
server is the real program with small random models made for the purpose; with --full each way
also takes a plain turn with starter-long. What OpenClaw sends is compared with what it is known
to send: anything new or missing is drift and fails the run.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from scripts.openclaw.cases import CASES, Case
from scripts.openclaw.client import FOLDER, OPENCLAW_VERSION, OpenClaw, installed, newest_version
from scripts.openclaw.failure import TurnError
from scripts.openclaw.modes import MODES
from scripts.openclaw.recorder import Recorder
from scripts.openclaw.report import render
from scripts.openclaw.server import PLAIN, make_models, serving
from scripts.openclaw.turns import Result, Stage, take_turn

TURN_S = 300.0
FULL_TURN_S = 1500.0
FULL = Case("starter-long", "starter-long", calls_tools=True)


def main() -> int:
    """Install, serve, take the turns, report; 0 if all went as they must."""
    options = _options()
    try:
        version = newest_version() if options.newest else OPENCLAW_VERSION
        openclaw = installed(version)
        if options.install_only:
            return 0
        results = list(_turns(openclaw, options))
    except TurnError as error:
        print(f"openclaw: {error}", file=sys.stderr)
        return 1
    text = render(version, results)
    print(text)
    _summarize(text)
    return int(any(result.problems or result.drift for result in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--install-only", action="store_true", help="install OpenClaw and stop")
    parser.add_argument("--newest", action="store_true", help="npm's newest, not the pinned one")
    parser.add_argument("--full", action="store_true", help="also plain turns with starter-long")
    for what, known in (("mode", MODES), ("case", (*CASES, FULL))):
        names = [one.name for one in known]
        text = f"only this {what}; may be repeated"
        parser.add_argument(f"--{what}", action="append", choices=names, help=text)
    return parser.parse_args()


def _turns(openclaw: OpenClaw, options: argparse.Namespace) -> Iterator[Result]:
    cases = [case for case in CASES if case.name in (options.case or [case.name])]
    with tempfile.TemporaryDirectory(
        dir=FOLDER, prefix="server-", ignore_cleanup_errors=True
    ) as folder:
        scratch = Path(folder)
        make_models(scratch / "models", scratch)
        if cases:
            where = (scratch / "home", scratch / "models", PLAIN)
            yield from _stage(openclaw, where, (cases, options.mode, TURN_S))
        if options.full or FULL.name in (options.case or []):
            from tests.support.starters import cache_root, starter_path

            starter_path(FULL.model)
            where = (scratch / "full", cache_root(), FULL.model)
            yield from _stage(openclaw, where, ([FULL], options.mode, FULL_TURN_S))


def _stage(
    openclaw: OpenClaw,
    where: tuple[Path, Path, str],
    what: tuple[list[Case], list[str] | None, float],
) -> Iterator[Result]:
    """Serve and take the turns, saying how each one went."""
    home, store, model = where
    cases, names, limit_s = what
    with serving(home, store, [model]) as server:
        parts = urlsplit(server.url)
        with Recorder(parts.hostname or "", parts.port or 0) as recorder:
            stage = Stage(openclaw, server, recorder, limit_s)
            for mode in (one for one in MODES if one.name in (names or [one.name])):
                for case in cases:
                    result = take_turn(stage, mode, case)
                    verdict = "; ".join(result.problems) or "as it must be"
                    print(
                        f"{mode.name}, {case.name}: {result.seconds:.1f} s, {verdict}", flush=True
                    )
                    yield result


def _summarize(text: str) -> None:
    """Put the report where a workflow's reader sees it first."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a") as out:
            out.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
