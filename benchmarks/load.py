"""Load generator: `python -m benchmarks.load --url http://127.0.0.1:1234/v1 --model NAME`."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import get_args

from benchmarks import loop, report
from benchmarks.arrivals import Arrival, Plan
from benchmarks.client import Target
from benchmarks.measure import Result, measure
from benchmarks.prompts import CalibrationError, PromptMaker, calibrate


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:1234/v1", help="the endpoint, with its /v1")
    add("--model", required=True)
    add("--key", help="bearer key")
    add("--concurrency", type=_positive, default=8, metavar="N")
    add("--requests", type=_positive, default=24, metavar="R", help="in all (busy: late comers)")
    add("--prompt-tokens", type=_positive, default=128, metavar="P", help="a prompt's own part")
    add("--shared-prefix", type=int, default=0, metavar="S", help="tokens all prompts share")
    add("--max-tokens", type=_positive, default=64, metavar="M")
    add("--arrival", choices=get_args(Arrival), default="burst")
    add("--stagger-ms", type=float, default=50.0, help="between the starts of two clients")
    add("--pause-ms", type=float, default=300.0, help="mean, before each late comer (busy)")
    add("--warmup", type=int, default=1, help="requests sent before, not counted")
    add("--timeout", type=float, default=120.0, help="seconds a request may take")
    add("--pid", type=int, help="the server's process: measures CPU and memory of its tree")
    add("--seed", help="makes the prompts; default: new ones, so that no cache knows them")
    add("--json", action="store_true", help="print JSON, no table")
    add("--save", action="store_true", help="also keep the JSON under benchmarks/results")
    options = parser.parse_args(arguments)
    options.seed = options.seed or str(time.time())
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan the command line describes."""
    return Plan(
        concurrency=options.concurrency,
        requests=options.requests,
        max_tokens=options.max_tokens,
        arrival=options.arrival,
        stagger_s=options.stagger_ms / 1000,
        pause_s=options.pause_ms / 1000,
        timeout_s=options.timeout,
        seed=options.seed,
    )


async def run(options: argparse.Namespace) -> Result:
    """Calibrate the prompts, warm the endpoint up, measure."""
    target = Target(url=options.url, model=options.model, key=options.key)
    plan = plan_of(options)
    cost = await calibrate(target, plan.timeout_s)
    words = cost.words(options.prompt_tokens)
    shared = round(options.shared_prefix / cost.per_word)
    if options.warmup:
        await measure(
            target,
            Plan(concurrency=plan.concurrency, requests=options.warmup, max_tokens=8),
            PromptMaker(f"{plan.seed}/warmup", words),
        )
    return await measure(target, plan, PromptMaker(plan.seed, words, shared), options.pid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 when a request failed."""
    options = parse(arguments)
    console = report.wide_console()
    try:
        result = loop.run(run(options))
    except (CalibrationError, ValueError) as error:
        console.print(f"[red]{error}[/red]")
        return 1
    if options.json:
        sys.stdout.write(report.to_json(result))
    else:
        title = f"{options.model}: {options.arrival}, {options.concurrency} at once"
        report.print_result(console, title, result)
    if options.save:
        console.print(f"saved {report.save('load', result)}")
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
