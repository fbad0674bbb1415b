"""The converter program: `python -m opta_lmx.backends.convert --gguf FILE --out DIR`.

Progress goes to standard output as JSON lines. A refusal is one last line
`{"error": {"code": ..., "message": ...}}` and exit status 2; status 1 for a disk that fails.
"""

import argparse
import json
import sys
from pathlib import Path

from opta_lmx.backends import leash
from opta_lmx.backends.convert.errors import ConvertError
from opta_lmx.core.errors import LmxError

_REFUSED, _FAILED = 2, 1


def main() -> int:
    """Convert as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="opta_lmx.backends.convert")
    parser.add_argument("--gguf", type=Path, required=True, help="the file to convert")
    parser.add_argument("--out", type=Path, required=True, help="the folder to fill")
    parser.add_argument("--dtype", choices=("f32", "bf16", "f16"), default="f32")
    parser.add_argument("--leash", action="store_true", help="end when standard input ends")
    arguments = parser.parse_args()
    if arguments.leash:
        leash.hold()
    try:
        from opta_lmx.backends.convert.folder import convert

        convert(arguments.gguf, arguments.out, arguments.dtype, _report)
    except (ConvertError, LmxError) as error:
        return _refuse(error.code, error.message, _REFUSED)
    except ImportError as error:
        return _refuse("missing_extra", f"{error}; install opta-lmx[mlx]", _REFUSED)
    except OSError as error:
        return _refuse("io_error", str(error), _FAILED)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Sizes that contradict each other in ways the header reader cannot know.
        return _refuse("invalid_gguf", f"{type(error).__name__}: {error}", _REFUSED)
    return 0


def _report(done: int, total: int) -> None:
    _say({"progress": {"done": done, "total": total}})


def _refuse(code: str, message: str, status: int) -> int:
    _say({"error": {"code": code, "message": message}})
    return status


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
