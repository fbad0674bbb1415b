"""The real server as a process of its own, over scripted models: `python -m` this, home, JSON.

The JSON holds `scripts` (of the models) and configuration `sections`. It listens on a free port
and writes where on standard error, like the program.
"""

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from opta_lmx import app
from opta_lmx.config.settings import Settings
from tests.support.process import ServerProcess
from tests.support.sim import SimResolver

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def sim_process(
    home: Path, scripts: dict[str, dict[str, Any]], *, log: Path, **sections: Any
) -> Generator[ServerProcess]:
    """A server that listens; all that it writes goes to `log`. It is ended with the block."""
    sections["server"] = {"port": 0, **sections.get("server", {})}
    asked = json.dumps({"scripts": scripts, "sections": sections})
    home.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sim_program", str(home), asked],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
        )
    server = ServerProcess(process, log)
    try:
        server.wait_listening()
        yield server
    finally:
        server.http.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main(home: Path, asked: dict[str, Any]) -> int:
    """Serve until a signal comes."""
    resolver = SimResolver(home / "logs", asked["scripts"])
    # What `serve` builds finds its models here; all else is the program's own.
    app.build = functools.partial(app.build, resolver=resolver)
    return app.serve(Settings.model_validate(asked["sections"]), home, [])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
