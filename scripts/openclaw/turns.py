"""One turn: OpenClaw pointed at the recorder, the fault brought about, the outcome judged."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.openclaw.cases import BUSY, KILLED, Case, Outcome, call_of, judge
from scripts.openclaw.client import FOLDER, Finished, OpenClaw
from scripts.openclaw.expected import known_requests
from scripts.openclaw.failure import TurnError
from scripts.openclaw.instances import judge_instances
from scripts.openclaw.modes import LM_STUDIO, Mode, edit, onboard
from scripts.openclaw.recorder import Exchange, Recorder, Watcher, ignore
from scripts.openclaw.server import Holder, Server, write_config
from scripts.openclaw.traffic import Seen, drift, seen

PROMPT = "Say hello in one short sentence."
RUNS = FOLDER / "runs"


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    mode: str
    case: str
    status: int | None
    statuses: tuple[int, ...]
    seconds: float
    problems: tuple[str, ...]
    drift: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """What every turn needs: the client, the server, the proxy between them, a time limit."""

    openclaw: OpenClaw
    server: Server
    recorder: Recorder
    limit_s: float


def take_turn(stage: Stage, mode: Mode, case: Case) -> Result:
    """Set up, ask, judge, keep a record. A turn that cannot be set up has failed."""
    begin = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(
            dir=FOLDER, prefix="turn-", ignore_cleanup_errors=True
        ) as folder:
            return _take(stage, mode, case, Path(folder))
    except TurnError as error:
        statuses = tuple(one.status for one in stage.recorder.exchanges)
        spent = time.monotonic() - begin
        return Result(mode.name, case.name, None, statuses, spent, (str(error),), ())
    finally:
        stage.recorder.watch(ignore)


def _take(stage: Stage, mode: Mode, case: Case, home: Path) -> Result:
    config = home / "openclaw.json"
    if case is BUSY:
        # Whoever held it before counts as a slow request, and Retry-After would say so.
        stage.server.unload(case.model)
    stage.server.load(case.model)
    stage.server.idle(case.model)
    exchanges = _configure(stage, mode, case, home, config)
    if mode.name == LM_STUDIO:
        # What the provider finds unloaded it has to load itself.
        stage.server.unload(case.model)
    before = _restarts(stage, case)
    with _fault(stage, mode, case) as watcher:
        stage.recorder.watch(watcher)
        finished = _ask(stage, mode, case, home, config)
    exchanges += stage.recorder.exchanges
    calls = [call_of(one, mode.dialect) for one in exchanges if one.path == mode.dialect.path]
    problems = judge(case, Outcome(finished, calls, _restarts(stage, case) - before))
    if mode.name == LM_STUDIO:
        problems += judge_instances(exchanges, must_load=case is not BUSY)
    return _result(mode, case, exchanges, finished, problems)


def _restarts(stage: Stage, case: Case) -> int:
    return int(stage.server.model(case.model).get("restarts", 0))


def _configure(stage: Stage, mode: Mode, case: Case, home: Path, config: Path) -> list[Exchange]:
    """Write OpenClaw's file; what OpenClaw itself asked meanwhile."""
    root = stage.recorder.url
    stage.recorder.watch(ignore)
    asked: list[Exchange] = []
    if mode.name == LM_STUDIO:
        onboard(stage.openclaw, home, config, root, case.model)
        asked = stage.recorder.exchanges
    else:
        write_config(stage.server, config, case.model, root)
    edit(config, mode, root, (case.max_tokens, case.window))
    return asked


def _ask(stage: Stage, mode: Mode, case: Case, home: Path, config: Path) -> Finished:
    """One headless turn."""
    work = home / "work"
    work.mkdir()
    arguments = ["agent", "exec", "--config", str(config), "--cwd", str(work)]
    arguments += ["--model", f"{mode.provider}/{case.model}"]
    arguments += ["--timeout", f"{stage.limit_s:.0f}", "--json", PROMPT]
    return stage.openclaw.run(arguments, home, config, stage.limit_s + 30)


@contextmanager
def _fault(stage: Stage, mode: Mode, case: Case) -> Generator[Watcher]:
    """Bring about what the case is about; yields who watches the traffic."""
    if case is BUSY:
        with _held(stage.server, mode, case) as watcher:
            yield watcher
    elif case is KILLED:
        yield _Killer(stage.server, mode, case.model).watch
    else:
        yield ignore


@contextmanager
def _held(server: Server, mode: Mode, case: Case) -> Generator[Watcher]:
    """Keep the model's only slot, and the place behind it, taken until a call has been refused.

    The place, because a caller who has nothing waiting is never refused.
    """
    server.load(case.model)
    holders = [Holder(server.url, case.model) for _ in range(2)]
    try:
        for waiting, holder in enumerate(holders):
            holder.start()
            server.busy(case.model, waiting)

        def watch(exchange: Exchange) -> None:
            if exchange.path == mode.dialect.path and exchange.status == 429:
                for holder in holders:
                    holder.release()

        yield watch
    finally:
        for holder in holders:
            holder.join()


class _Killer:
    """Kills the model's worker when the first word of the first answer comes by."""

    def __init__(self, server: Server, mode: Mode, model: str) -> None:
        self._server = server
        self._dialect = mode.dialect
        self._model = model
        self._worker: int | None = None
        self._done = False

    def watch(self, exchange: Exchange) -> None:
        """See whether it is time."""
        if self._done or exchange.path != self._dialect.path:
            return
        # Asked beforehand: by the time of the first word every millisecond counts.
        self._worker = self._worker or self._server.model(self._model).get("pid")
        if self._worker is not None and self._dialect.visible.search(exchange.reply):
            self._done = True
            os.kill(self._worker, signal.SIGKILL)


def _result(
    mode: Mode, case: Case, exchanges: list[Exchange], finished: Finished, problems: list[str]
) -> Result:
    requests = [seen(one.method, one.path, one.headers, one.body) for one in exchanges]
    result = Result(
        mode=mode.name,
        case=case.name,
        status=finished.status,
        statuses=tuple(one.status for one in exchanges),
        seconds=finished.seconds,
        problems=tuple(problems),
        drift=tuple(drift(requests, known_requests(mode.name))),
    )
    _keep(result, finished, list(zip(exchanges, requests, strict=True)))
    return result


def _keep(result: Result, finished: Finished, requests: list[tuple[Exchange, Seen]]) -> None:
    """Write down what was sent (names only), what came back, and what OpenClaw said."""
    RUNS.mkdir(parents=True, exist_ok=True)
    name = f"{result.mode}-{result.case.replace(' ', '-')}"
    record: dict[str, Any] = {
        "problems": result.problems,
        "drift": result.drift,
        "exit_status": finished.status,
        "requests": [_record(*pair, begin=requests[0][0].begun) for pair in requests],
    }
    (RUNS / f"{name}.json").write_text(json.dumps(record, indent=1))
    (RUNS / f"{name}.log").write_text(f"{finished.out}\n--- standard error\n{finished.err}")


def _record(exchange: Exchange, request: Seen, *, begin: float) -> dict[str, Any]:
    ended = time.monotonic() if exchange.ended is None else exchange.ended
    return {
        "request": request.call,
        "headers": sorted(request.headers),
        "body": sorted(request.parts),
        "status": exchange.status,
        "retry_after": exchange.reply_headers.get("retry-after"),
        "begun_s": round(exchange.begun - begin, 3),
        "ended_s": round(ended - begin, 3),
        "complete": exchange.complete,
        "reply_end": exchange.reply[-1500:].decode("utf-8", "replace"),
    }
