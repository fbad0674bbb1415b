"""xllamacpp's own server as a peer: `python -m benchmarks.xllama --model FILE --port PORT`.

It runs the engine that this server's workers run, with nothing of ours around it: llama.cpp's
OpenAI endpoint over HTTP. What is not named here is as llama.cpp has it by default.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import Command

NAME = "xllamacpp"


class Setup:
    """What both sides have in common: the file, slots, each slot's context, threads."""

    def __init__(self, model: Path, slots: int, context: int, threads: int) -> None:
        self.model = model
        self.slots = slots
        self.context = context
        self.threads = threads


def xllamacpp_server(setup: Setup, batch: int = 0) -> Command:
    """The engine's own server; `batch` is what it takes in one go (0: its own default)."""
    arguments = [sys.executable, "-m", "benchmarks.xllama", "--port", "{port}"]
    for name, value in (
        ("--model", setup.model),
        ("--slots", setup.slots),
        ("--context", setup.context),
        ("--threads", setup.threads),
        ("--batch", batch),
    ):
        arguments += [name, str(value)]
    return Command(NAME, "default", arguments, "/health")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.xllama", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    for name in ("--port", "--slots", "--context", "--threads", "--batch"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end."""
    import xllamacpp

    options = parse(arguments)
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.hostnames, params.port = ["127.0.0.1"], options.port
    params.n_parallel, params.n_ctx = options.slots, options.slots * options.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.fit_params = params.ui = False
    params.verbosity = 1
    if options.batch:
        params.n_batch = params.n_ubatch = options.batch
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(params)  # kept: it must not be destroyed
    print(f"listening on {server.listening_address}", flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
