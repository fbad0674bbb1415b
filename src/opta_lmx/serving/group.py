"""The answers to one request: `n` runs side by side, read as one stream of tokens."""

from opta_lmx.core.types import Accepted, TokenEvent, Usage
from opta_lmx.scheduling.rules import Position
from opta_lmx.serving.run import ModelRun, Timing
from opta_lmx.serving.together import Together


class RunGroup:
    """An asynchronous iterator over the tokens of all runs, each marked with its run's index.

    `open` it first, `close` it always. The prompt is prepared and checked once.
    """

    def __init__(self, runs: list[ModelRun]) -> None:
        """`runs` hold tickets of one model's line; at least one."""
        self._runs = runs
        self._together = Together(runs)
        self._arrived: list[TokenEvent] = []
        self.created_s = runs[0].created_s

    @property
    def size(self) -> int:
        """How many answers there are."""
        return len(self._runs)

    @property
    def limit(self) -> int | None:
        """See `ModelRun.limit`."""
        return self._runs[0].limit

    async def open(self) -> Accepted:
        """Second gate, for all runs at once. Raises what `ModelRun.open` raises."""
        accepted = await self._runs[0].open()
        for index, run in enumerate(self._runs[1:], 1):
            run.follow(self._runs[0], index)
        return accepted

    def __aiter__(self) -> "RunGroup":
        return self

    async def __anext__(self) -> TokenEvent:
        """Next token of any run. Raises the typed error that ended one: it ends them all."""
        if len(self._runs) == 1:
            return await self._runs[0].__anext__()
        if not self._arrived:
            self._arrived = [token for _, token in await self._together.next()]
        if not self._arrived:
            raise StopAsyncIteration
        return self._arrived.pop(0)

    def stop(self, index: int) -> None:
        """End one answer; its slot is freed, the others go on."""
        self._together.drop(index)
        self._arrived = [event for event in self._arrived if event.index != index]
        self._runs[index].close()
        self._runs[index].stopped = True

    @property
    def usage(self) -> Usage:
        """Exact counts over all runs; the prompt counts once."""
        each = [run.usage for run in self._runs]
        return Usage(
            each[0].prompt_tokens,
            sum(one.completion_tokens for one in each),
            cached_tokens=each[0].cached_tokens,
            drafted_tokens=sum(one.drafted_tokens for one in each),
            accepted_tokens=sum(one.accepted_tokens for one in each),
        )

    @property
    def position(self) -> Position | None:
        """Where the first answer that waits stands in line; None when none does."""
        return next((found for run in self._runs if (found := run.position)), None)

    @property
    def timing(self) -> Timing:
        """What the first answer has taken so far."""
        return self._runs[0].timing

    @property
    def ran(self) -> bool:
        """True once the engine has been given any of the runs."""
        return any(run.ran for run in self._runs)

    def close(self) -> None:
        """Free every run, however it ended. Idempotent."""
        self._together.close()
        for run in self._runs:
            run.close()
