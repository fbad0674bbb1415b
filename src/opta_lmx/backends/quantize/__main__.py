"""The program `python -m opta_lmx.backends.quantize --source PATH --out DIR`.

Standard output carries JSON lines: `{"progress": {"phase", "done", "total", "layer"}}` in bytes,
and last `{"done": {...}}` (an `outcome.Outcome`) or `{"error": {"code", "message", "param"}}` with
exit status 2, 1 for a disk that fails.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TextIO

import msgspec

from opta_lmx.backends import leash
from opta_lmx.backends.convert.errors import ConvertError
from opta_lmx.backends.quantize.rules import scheme
from opta_lmx.core.errors import LmxError

_REFUSED, _FAILED = 2, 1


class _Teller:
    """Writes lines to the standard output of the program, which nobody else may use."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, kind: str, value: object) -> None:
        """One line."""
        self._stream.write(json.dumps({kind: value}) + "\n")
        self._stream.flush()

    def progress(self, phase: str, done: int, total: int, layer: str) -> None:
        """How far the work has got."""
        self.say("progress", {"phase": phase, "done": done, "total": total, "layer": layer})

    def refuse(self, code: str, message: str, status: int, param: str | None = None) -> int:
        """The last line of a job that failed; returns the exit status."""
        self.say("error", {"code": code, "message": message, "param": param})
        return status


def main() -> int:
    """Quantise as the command line says; return the exit status."""
    arguments = _parsed()
    if arguments.leash:
        leash.hold()
    teller = _Teller(sys.stdout)
    # mlx-lm prints remarks of its own.
    with contextlib.redirect_stdout(sys.stderr):
        return _worked(arguments, teller)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="opta_lmx.backends.quantize")
    parser.add_argument("--source", type=Path, required=True, help="a model folder or GGUF file")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--mode", default=None)
    parser.add_argument("--bits", type=int, default=None)
    parser.add_argument("--group-size", type=int, default=None)
    parser.add_argument("--leash", action="store_true", help="end when standard input ends")
    return parser.parse_args()


def _worked(arguments: argparse.Namespace, teller: _Teller) -> int:
    try:
        chosen = scheme(arguments.mode, arguments.bits, arguments.group_size)
        from opta_lmx.backends.quantize.folder import quantise

        outcome = quantise(arguments.source, arguments.out, chosen, teller.progress)
    except LmxError as error:
        return teller.refuse(error.code, error.message, _REFUSED, error.param)
    except ConvertError as error:
        return teller.refuse(error.code, error.message, _REFUSED, "model")
    except ImportError as error:
        return teller.refuse("missing_extra", f"{error}; install opta-lmx[mlx]", _REFUSED)
    except OSError as error:
        return teller.refuse("io_error", str(error), _FAILED)
    teller.say("done", msgspec.to_builtins(outcome))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # All is on disk and told; tidying up the engine would only take time.
    os._exit(code)
