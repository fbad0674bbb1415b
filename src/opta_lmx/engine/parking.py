"""A model that is to make room for another finishes what runs, and begins nothing new."""

from opta_lmx.backends.frames import Ready
from opta_lmx.engine.runtime import ModelRuntime, ModelState


def hold(runtime: ModelRuntime, *, held: bool) -> None:
    """Let a model begin no request, so that it can be parked, or all again."""
    if held == runtime.held:
        return
    runtime.held = held
    runtime.line.set_shut(held or runtime.parked)
    if runtime.state is not ModelState.READY:
        return
    if held:
        runtime.usable.clear()
    else:
        runtime.usable.set()
        runtime.seat.arrange()


def users(runtime: ModelRuntime) -> int:
    """Requests that keep a model from being unloaded; where it is held, those under way alone."""
    if not runtime.line.shut:
        return runtime.line.running + runtime.line.waiting
    working = runtime.worker is not None and runtime.worker.working
    return int(runtime.line.under_way or working)


def awaited(runtime: ModelRuntime) -> int:
    """How many wait for a model, requests and operators."""
    return runtime.line.waiting + runtime.joined


async def until_loaded(runtime: ModelRuntime) -> Ready:
    """As `ModelRuntime.until_ready`, for an operator: a model that is held is there all the same.

    Meanwhile the operator counts among those who wait for it.
    """
    if runtime.state is ModelState.READY and runtime.ready is not None:
        return runtime.ready
    runtime.joined += 1
    try:
        return await runtime.until_ready()
    finally:
        runtime.joined -= 1
