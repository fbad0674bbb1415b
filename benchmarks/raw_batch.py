"""The floor to compare with: mlx-lm's BatchGenerator in a bare loop, no server, no text.

`python -m benchmarks.raw_batch --model FOLDER` prints tokens/s at 1 and 8 rows. `RawLoop` is
the same as a child process that runs one measurement whenever it is asked.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.table import Table

from benchmarks.client import Messages
from benchmarks.peers import ROOT, StartError, mlx_environment
from benchmarks.prompts import PromptMaker
from benchmarks.report import wide_console
from benchmarks.stats import median

_START_S = 120.0


class Job(msgspec.Struct, frozen=True):
    """One measurement: all prompts at once, `max_tokens` each; end tokens do not end a row."""

    prompts: list[Messages]
    max_tokens: int


class RawResult(msgspec.Struct, frozen=True):
    """Wall time from handing over the prompts to the last token, prefill included.

    `step_ms` is the median time of a decode step of the whole batch.
    """

    rows: int
    tokens: int
    prompt_tokens: int
    wall_s: float
    tokens_per_s: float
    ms_per_token: float
    ttft_ms: float
    step_ms: float
    cpu_ms_per_token: float


def run_job(model: Any, tokenizer: Any, job: Job) -> RawResult:
    """Run one measurement in this process."""
    from mlx_lm.generate import BatchGenerator

    prompts = [_tokens(tokenizer, messages) for messages in job.prompts]
    generator = BatchGenerator(model)
    steps: list[float] = []
    first = 0.0
    tokens = 0
    cpu = time.process_time()
    start = last = time.perf_counter()
    generator.insert(prompts, max_tokens=[job.max_tokens] * len(prompts))
    left = len(prompts)
    while left:
        _, responses = generator.next()
        now = time.perf_counter()
        if responses:
            first = first or now - start
            steps.append(now - last)
            tokens += len(responses)
            left -= sum(response.finish_reason is not None for response in responses)
        last = now
    generator.close()
    wall = last - start
    return RawResult(
        rows=len(prompts),
        tokens=tokens,
        prompt_tokens=sum(map(len, prompts)),
        wall_s=wall,
        tokens_per_s=tokens / wall,
        ms_per_token=wall * 1000 / tokens,
        ttft_ms=first * 1000,
        step_ms=median(steps) * 1000,
        cpu_ms_per_token=(time.process_time() - cpu) * 1000 / tokens,
    )


def _tokens(tokenizer: Any, messages: Messages) -> list[int]:
    """The prompt rendered by the model's own template, as a server would."""
    turns = [{"role": "user", "content": messages.user}]
    if messages.system:
        turns.insert(0, {"role": "system", "content": messages.system})
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    return [int(token) for token in ids]


def serve(folder: str) -> int:
    """Child: load, say so, then one job a line in, one result a line out."""
    from mlx_lm import load

    # The results go out by a private descriptor: whatever libraries print must not mix in.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    model, tokenizer = load(folder)[:2]
    run_job(model, tokenizer, Job([Messages("warm up")] * 2, 8))
    out.write(b"ready\n")
    for line in sys.stdin.buffer:
        job = msgspec.json.decode(line, type=Job)
        out.write(msgspec.json.encode(run_job(model, tokenizer, job)) + b"\n")
    return 0


class RawLoop:
    """A child process with the model loaded, started with the worker's own BLAS environment.

    Args:
        folder: the model.
        scratch: private folder for library links.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        environment = {**os.environ, **mlx_environment(scratch)}
        command = [sys.executable, "-m", "benchmarks.raw_batch", "--child", "--model", str(folder)]
        self._log = (scratch / "raw.log").open("wb")
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        if self._read() != b"ready\n":
            self.__exit__(None, None, None)
            raise StartError("the raw loop did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)
        self._child.stdout.close()
        self._log.close()

    def run(self, job: Job) -> RawResult:
        """Run one measurement. Raises StartError when the child is gone."""
        assert self._child.stdin is not None
        self._child.stdin.write(msgspec.json.encode(job) + b"\n")
        self._child.stdin.flush()
        line = self._read()
        if not line:
            raise StartError("the raw loop ended early")
        return msgspec.json.decode(line, type=RawResult)

    def _read(self) -> bytes:
        assert self._child.stdout is not None
        return self._child.stdout.readline()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure 1 and 8 rows a few times and print the medians."""
    parser = argparse.ArgumentParser(prog="benchmarks.raw_batch", description=__doc__)
    parser.add_argument("--model", required=True, help="MLX model folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--words", type=int, default=90, help="words of a prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4, help="the first is dropped")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return serve(options.model)
    table = Table("rows", "tokens/s", "ms per token", "ms per step", "TTFT ms", "CPU ms per token")
    with (
        tempfile.TemporaryDirectory() as scratch,
        RawLoop(Path(options.model).resolve(), Path(scratch)) as loop,
    ):
        for rows in options.rows:
            results: list[RawResult] = []
            for number in range(options.rounds):
                maker = PromptMaker(f"raw/{number}", options.words)
                prompts = [maker.make(index) for index in range(rows)]
                results.append(loop.run(Job(prompts, options.max_tokens)))
            kept = results[1:] or results
            names = ("tokens_per_s", "ms_per_token", "step_ms", "ttft_ms", "cpu_ms_per_token")
            figures = (median(getattr(result, name) for result in kept) for name in names)
            table.add_row(str(rows), *(f"{figure:.2f}" for figure in figures))
    wide_console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
