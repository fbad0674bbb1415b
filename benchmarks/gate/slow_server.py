"""This server with workers that are too slow: `python -m benchmarks.gate.slow_server serve ...`.

Everything is as always, but workers are started as `benchmarks.gate.slow_worker`.
"""

import asyncio
import sys
from typing import Any

from opta_lmx.cli.main import main

_WORKER, _SLOW = "opta_lmx.backends.worker", "benchmarks.gate.slow_worker"
_start = asyncio.create_subprocess_exec


async def _start_slow(program: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
    return await _start(
        program, *(_SLOW if each == _WORKER else each for each in arguments), **options
    )


if __name__ == "__main__":
    asyncio.create_subprocess_exec = _start_slow
    sys.exit(main())
