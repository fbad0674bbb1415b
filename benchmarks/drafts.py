"""What a draft model gains or costs: `python -m benchmarks.drafts [--model FILE] [--draft FILE]`.

One server runs the same GGUF file twice, alone and with a draft model; both answer the same
prompts in turn. Without `--draft` the model drafts for itself: then nearly every guess is right
and each costs as much as the token it saves, so the ratio is the price of drafting, not its gain.
"""

import argparse
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from benchmarks import loop
from benchmarks.arrivals import Plan
from benchmarks.compare import starter_file
from benchmarks.contest import Contest, Ratio, Round, Scenario, against_peer, failures
from benchmarks.peers import Peer, StartError, opta_lmx, running
from benchmarks.prompts import calibrate
from benchmarks.report import number, save, wide_console

_ALONE, _DRAFTED = "alone", "drafted"
_COUNTS = re.compile(
    rf'^opta_lmx_spec_decode_num_(\w+)_tokens_total{{model="{_DRAFTED}"}} (\S+)$', re.MULTILINE
)


class Report(msgspec.Struct):
    """Everything a run gave, for the JSON file; `acceptance` is the share of right guesses."""

    model: str
    draft: str
    draft_tokens: int
    acceptance: float
    rounds: list[Round]
    ratios: dict[str, Ratio]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.drafts", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="a GGUF file; default: the starter of your own store")
    add("--draft", type=Path, help="a smaller one of the same vocabulary; default: the same file")
    add("--draft-tokens", type=int, default=4, metavar="N", help="guessed at a time")
    add("--rounds", type=int, default=5, metavar="R", help="the first is not counted")
    add("--max-tokens", type=int, default=64, metavar="M")
    add("--threads", type=int, default=1, metavar="T", help="of each model")
    return parser.parse_args(arguments)


def scenarios(max_tokens: int) -> list[Scenario]:
    """One stream at a time, and four at once."""
    return [
        Scenario("c1", Plan(1, 2, max_tokens)),
        Scenario("c4 burst", Plan(4, 4, max_tokens)),
    ]


def stocked(home: Path, options: argparse.Namespace) -> None:
    """A store with the model under two names and its draft, and settings that join them."""
    from opta_lmx.models.store import ModelStore

    store = ModelStore(home / "models")
    store.sweep()
    sources = {_ALONE: options.model, _DRAFTED: options.model, "small": options.draft}
    for name, source in sources.items():
        store.add(source, name)
    (home / "config.toml").write_text(
        f'[engine]\nbackend = "gguf"\nslots = 4\ncontext = 2048\nthreads = {options.threads}\n'
        f'[engine.overrides.{_DRAFTED}]\ndraft = "small"\ndraft_tokens = {options.draft_tokens}\n'
    )


async def play(with_draft: Peer, options: argparse.Namespace) -> list[Round]:
    """Play all rounds on the model with its draft (ours) and alone (theirs)."""
    target = msgspec.structs.replace(with_draft.target, model=_ALONE)
    without = msgspec.structs.replace(with_draft, name=_ALONE, target=target)
    seed = str(time.time())
    words = (await calibrate(target)).words(64)
    warm = Contest(with_draft, without, None, words, f"{seed}/warm")
    await warm.play([Scenario("warm", Plan(1, 1, 8))], 1, lambda _: None)
    contest = Contest(with_draft, without, None, words, seed)
    return await contest.play(scenarios(options.max_tokens), options.rounds, print)


def acceptance(peer: Peer) -> float:
    """The share of all guesses so far that were right."""
    url = peer.target.url.removesuffix("/v1") + "/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        counts = dict(_COUNTS.findall(reply.read().decode()))
    return float(counts.get("accepted", 0)) / max(1.0, float(counts.get("draft", 0)))


def measured(options: argparse.Namespace, scratch: Path) -> Report:
    """Serve both, play, compare."""
    stocked(scratch, options)
    with running(opta_lmx(_DRAFTED, scratch, {}), scratch) as peer:
        rounds = loop.run(play(peer, options))
        share = acceptance(peer)
    names = [scenario.name for scenario in scenarios(1)]
    return Report(
        model=options.model.name,
        draft=options.draft.name,
        draft_tokens=options.draft_tokens,
        acceptance=share,
        rounds=rounds,
        ratios={
            name: against_peer(rounds, name, lambda found: found.tokens_per_s) for name in names
        },
    )


def table(report: Report) -> Table:
    """Tokens per second with and without."""
    made = Table(title=f"{report.model}, {report.draft_tokens} tokens ahead by {report.draft}")
    for title in ("", "with, tokens/s", "without, tokens/s", "ratio", "range"):
        made.add_column(title, justify="right")
    for name, found in report.ratios.items():
        edges = f"{number(found.low, 2)} to {number(found.high, 2)}"
        made.add_row(name, number(found.ours), number(found.theirs), number(found.ratio, 2), edges)
    made.caption = f"accepted: {100 * report.acceptance:.0f} % of the guesses"
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 on failures."""
    options = parse(arguments)
    options.model = options.model or starter_file()
    options.draft = options.draft or options.model
    console = wide_console()
    if options.model is None:
        console.print("no starter in the store: opta-lmx pull starter, or give --model FILE")
        return 1
    with tempfile.TemporaryDirectory(prefix="lmx-bench-") as scratch:
        try:
            report = measured(options, Path(scratch))
        except StartError as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    console.print(table(report))
    console.print(f"saved {save('drafts', report)}")
    failed = failures(report.rounds)
    for line in failed:
        console.print(f"[red]failed:[/red] {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
