"""Short ways to play requests on a table of slots."""

from collections.abc import Iterable

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.slot import submitted
from opta_lmx.backends.gguf.slots import Prepared, SlotTable, Start
from opta_lmx.core.types import SamplingParams


def submit(
    number: int,
    ids: Iterable[int] = (1,),
    max_tokens: int = 1,
    salt: str = "",
    *,
    generated: tuple[int, ...] = (),
    first: bool = False,
    adapter: str = "",
) -> Submit:
    options = {"generated": generated, "salt": salt, "first": first, "adapter": adapter}
    return Submit(number, tuple(ids), SamplingParams(), max_tokens, **options)


def begin(table: SlotTable, request: Submit) -> Start:
    table.add(request)
    started = table.start()
    assert started is not None
    table.prepared(started, Prepared(started.before.fills))
    return started


def run(table: SlotTable, request: Submit, answer: Iterable[int] = ()) -> Start:
    """Start a request on an idle table and end it."""
    started = begin(table, request)
    table.release(request.id, (*submitted(request), *answer))
    return started


def start(table: SlotTable) -> tuple[int, int, int]:
    started = table.start()
    assert started is not None
    return started.request.id, started.slot, started.cached
