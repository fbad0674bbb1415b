"""Things that raise inside a step, put into the child's code."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from opta_lmx.backends.mlx import processing, running, sampling, states
from opta_lmx.core.clock import SystemClock, block_for


class Broken(Exception):
    """What the injected faults raise."""


def _nth_call(of: Callable[..., Any], at: int, *, ever_after: bool = False) -> Callable[..., Any]:
    """The function, but its call number `at` (from 0) raises, and all later ones if asked."""
    calls = count()

    def broken(*args: Any, **named: Any) -> Any:
        call = next(calls)
        if call == at or (ever_after and call > at):
            raise Broken(f"call {call}")
        return of(*args, **named)

    return broken


def _own(kind: type, method: str, at: int) -> Callable[..., Any]:
    """A method that raises when any one object calls it for the time `at` (from 0)."""
    usual, calls = getattr(kind, method), dict[int, Any]()

    def broken(self: Any, *args: Any) -> Any:
        if next(calls.setdefault(id(self), count())) == at:
            raise Broken(f"call {at}")
        return usual(self, *args)

    return broken


def inject(patch: pytest.MonkeyPatch, fault: str, at: int, engine: Any) -> None:
    """Break something.

    `processor`: penalties of every row at their own call `at`. `sampler`: draws with a seed, at
    the token `at` of the answer. `shared`: draws without one, from call `at` on. `model`: the
    model's call `at`, once; `often`: every call that `at` divides; `rebuild`: its call `at`, and
    the generator cannot be made again. `keep`, `extract`: no state can be computed or taken out.
    `slow`: nothing raises, but every step takes `at` milliseconds at least.
    """
    if fault == "processor":
        made = _own(processing.Penalties, "apply", at)
        patch.setattr(processing.Penalties, "apply", made)
    elif fault == "sampler":
        usual = sampling.Draw.__call__

        def draw(self: Any, logprobs: Any) -> Any:
            if self._index == at:
                raise Broken(f"token {at}")
            return usual(self, logprobs)

        patch.setattr(sampling.Draw, "__call__", draw)
    elif fault == "shared":
        made = _nth_call(sampling.Draw.__call__, at, ever_after=True)
        patch.setattr(sampling.Draw, "__call__", made)
    elif fault in {"model", "often", "rebuild"}:
        _break_model(patch, fault, at, type(engine._batch._running._model))
    elif fault == "keep":
        patch.setattr(states, "settle", _nth_call(len, at, ever_after=True))
    elif fault == "extract":
        of = running.BatchGenerator
        made = _nth_call(of.extract_cache, at, ever_after=True)
        patch.setattr(of, "extract_cache", made)
    elif fault == "slow":
        patch.setattr(running.Running, "next", _slow(running.Running.next, at))
    else:
        assert fault == "none"


def _slow(of: Callable[..., Any], least_ms: int) -> Callable[..., Any]:
    def slow(*args: Any) -> Any:
        began = clock.monotonic()
        result = of(*args)
        block_for(max(0.0, least_ms / 1000 - (clock.monotonic() - began)))
        return result

    clock = SystemClock()
    return slow


def _break_model(patch: pytest.MonkeyPatch, fault: str, at: int, model: type) -> None:
    usual, calls = model.__call__, count(1)

    def often(self: Any, *args: Any, **named: Any) -> Any:
        if next(calls) % at == 0:
            raise Broken("now and then")
        return usual(self, *args, **named)

    patch.setattr(model, "__call__", often if fault == "often" else _nth_call(usual, at))
    if fault == "rebuild":
        patch.setattr(running.Running, "_new", _nth_call(running.Running._new, 0))
