"""`python -m benchmarks.fleet PROGRAM ...`: run, sessions, hog or soak (run unless named)."""

import importlib
import sys

PROGRAMS = ("run", "sessions", "hog", "soak")


def main(arguments: list[str]) -> int:
    """Hand over to the named program."""
    named = arguments[0] if arguments and arguments[0] in PROGRAMS else ""
    program = importlib.import_module(f"benchmarks.fleet.{named or 'run'}")
    return int(program.main(arguments[1:] if named else arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
