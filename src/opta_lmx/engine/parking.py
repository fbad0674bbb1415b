"""A model that is to make room for another finishes what runs, and begins nothing new."""

from opta_lmx.engine.runtime import ModelRuntime, ModelState


def hold(runtime: ModelRuntime, *, held: bool) -> None:
    """Let a model begin no request, so that it can be parked, or all again."""
    if held == runtime.line.shut:
        return
    runtime.line.set_shut(held)
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
