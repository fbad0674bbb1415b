"""Whether a model fits this machine, with what window, and how fast it will be.

What was measured here goes before what is reckoned, and each figure says which of both it is.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from opta_lmx.backends import registry
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.engine.appetite import Appetite
from opta_lmx.engine.aside import aside
from opta_lmx.engine.memory import MemoryStatus
from opta_lmx.engine.planner import BackendName, Planner
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.manifest import ModelEntry
from opta_lmx.models.names import split_ref
from opta_lmx.models.offer import Offer, Origin
from opta_lmx.models.puller import Puller
from opta_lmx.models.starters import STARTERS
from opta_lmx.scheduling.ledger import MemoryNeed
from opta_lmx.scheduling.loading import LoadTimes, LoadWork

Json = dict[str, Any]
Source = Literal["measured", "estimated", "unknown"]
Fits = Literal["now", "after_unloading", "no"]
Results = Callable[[str | None, int], Awaitable[list[Json]]]
"""Benchmarks kept of a model, or of all (None): at most so many, the newest first."""

_COPIED_BYTES = 32 << 20
_TRIES = 3
_LEAST_TOKEN_S = 0.001
"""However small a model is, a token costs its engine about this much besides the weights."""
_OTHERS = 50
_LOOKS_AT_ONCE = 4


class Wanted(msgspec.Struct, frozen=True):
    """What is asked; None: as configured."""

    model: str
    backend: BackendName | None = None
    context: int | None = None
    slots: int | None = None


class Room(msgspec.Struct, frozen=True):
    """Memory for models, in bytes: all of it, what nobody holds, what idle models would free."""

    budget_bytes: int
    free_bytes: int
    idle_bytes: int

    def fits(self, need: int) -> Fits:
        """When so many bytes would be there."""
        if need <= self.free_bytes:
            return "now"
        return "after_unloading" if need <= self.free_bytes + self.idle_bytes else "no"


class Machine(msgspec.Struct, frozen=True):
    """What is known of this machine from its past.

    Attributes:
        memory: who holds what of the memory.
        results: benchmarks that were run here.
        load_times: what loads have taken here.
    """

    memory: Callable[[], MemoryStatus]
    results: Results
    load_times: Callable[[], LoadTimes]


class _Subject(msgspec.Struct, frozen=True):
    """The model asked about; `known` is False where only its size is."""

    entry: ModelEntry
    origin: Origin
    backend: BackendName
    known: bool = True


class Fitting:
    """Answers for stored models, starters, and hub models, of which only headers are fetched.

    Args:
        planner: says how a model would be run.
        puller: describes what is not in the store.
        machine: what is known of this one.
        clock: measures how fast memory is copied.
    """

    def __init__(self, planner: Planner, puller: Puller, machine: Machine, clock: Clock) -> None:
        self._planner = planner
        self._puller = puller
        self._machine = machine
        self._clock = clock
        self._copying: float | None = None
        self._looking = asyncio.Semaphore(_LOOKS_AT_ONCE)

    def room(self, model_id: str = "") -> Room:
        """The memory there is for a model: its own, where it is loaded, counts as free."""
        status = self._machine.memory()
        own = sum(line.bytes for line in status.models if line.model == model_id)
        idle = sum(
            line.bytes
            for line in status.models
            if line.model != model_id
            and line.state == "ready"
            and not line.users
            and not line.pinned
        )
        return Room(status.budget_bytes, max(0, status.free_bytes + own), idle)

    async def fit(self, wanted: Wanted) -> Json:
        """Sizes in bytes, windows in tokens, for each slot.

        Raises:
            LmxError: MODEL_NOT_FOUND; INVALID_REQUEST `backend_mismatch`, `context_too_long`;
                for a hub model, as a pull.
        """
        subject = await self._subject(wanted)
        entry, backend = subject.entry, subject.backend
        appetite = await asyncio.to_thread(self._planner.appetite, entry, backend)
        model_id = self._planner.id_of(entry, backend)
        room = self.room(model_id)
        return {
            "model": model_id,
            "backend": backend,
            "installed": not registry.missing_modules(backend),
            "origin": subject.origin,
            "format": entry.format,
            "kind": entry.kind,
            "quantisation": entry.info.quantisation,
            "parameters": entry.info.parameters,
            "size_bytes": entry.size_bytes,
            "licence": entry.licence,
            "max_context": entry.info.context_length,
            "from": "headers" if subject.known else "size",
            **_sizes(wanted, appetite, room),
            "memory": msgspec.to_builtins(room),
            **await self._speed(subject, model_id, appetite),
        }

    async def _subject(self, wanted: Wanted) -> _Subject:
        try:
            known = self._planner.reference(wanted.model)
        except LmxError as error:
            name, suffix = split_ref(wanted.model)
            elsewhere = name in STARTERS or "/" in name
            if error.kind is not ErrorKind.MODEL_NOT_FOUND or not elsewhere:
                raise
            async with self._looking:
                offer, info = await aside(lambda: self._puller.describe(name), "hub headers")
            entry = _described(offer, info)
            backend = self._planner.backend_of(entry, wanted.backend or suffix)
            return _Subject(entry, offer.origin, backend, info is not None)
        entry = await asyncio.to_thread(self._planner.store.get, known.name)
        backend = self._planner.backend_of(entry, wanted.backend or known.backend)
        return _Subject(entry, "store", backend)

    async def _speed(self, subject: _Subject, model_id: str, appetite: Appetite) -> Json:
        """How long it takes to load, and how fast one answer comes."""
        entry, backend = subject.entry, subject.backend
        converts = backend == "mlx" and entry.format == "gguf" and not entry.converted
        weights = appetite.reserved().weights
        work = LoadWork(model_id, weights, entry.info.weights_bytes if converts else 0)
        times = await asyncio.to_thread(self._machine.load_times)
        load = {
            "seconds": round(times.load_s(work), 3),
            "source": "measured" if model_id in times.loads else "estimated",
            "conversion_s": round(times.conversion_s(work), 3),
        }
        return {"load": load, "speed": await self._tokens(subject, model_id, weights)}

    async def _tokens(self, subject: _Subject, model_id: str, weights: int) -> Json:
        if subject.entry.kind != "chat":
            return _no_speed("It makes no text.")
        if subject.origin == "store":
            for result in await self._machine.results(model_id, _OTHERS):
                measured = _alone(result)
                # What was measured before the model was added was another one of its name.
                if measured and result["created_ms"] >= subject.entry.created_ms:
                    how = f"benchmark {result['id']}"
                    return {"tokens_per_s": measured, "source": "measured", "how": how}
        rate, how = await self._bytes_per_s(subject.backend)
        if not rate or not weights:
            return _no_speed(how)
        return {
            "tokens_per_s": round(1 / (_LEAST_TOKEN_S + weights / rate), 2),
            "source": "estimated",
            "how": f"All {weights / 1e9:.2f} GB of weights are read for each token, at "
            f"{rate / 1e9:.1f} GB/s {how}. Models of experts read fewer, and are faster.",
        }

    async def _bytes_per_s(self, backend: BackendName) -> tuple[float, str]:
        """How fast weights are read while tokens are made, and how that is known."""
        results = await self._machine.results(None, _OTHERS)
        rates = await asyncio.to_thread(self._rates, backend, results)
        if rates:
            return statistics.median(rates), "(as other models did here, in benchmarks)"
        if backend == "mlx" and registry.has_accelerator():
            return 0.0, "No model was measured on this accelerator yet: run a benchmark."
        if self._copying is None:
            self._copying = await asyncio.to_thread(_copy_rate, self._clock)
        return self._copying, "(as one core copies memory; the engine may reach less or more)"

    def _rates(self, backend: BackendName, results: list[Json]) -> list[float]:
        """Bytes a second of those measured on a backend; each model's files are read once."""
        weights: dict[str, int] = {}
        rates: list[float] = []
        for result in results:
            speed = _alone(result)
            if result.get("backend") != backend or not speed:
                continue
            model = str(result["model"])
            if model not in weights:
                weights[model] = self._weights_of(model, backend)
            rates.append(speed * weights[model])
        return [rate for rate in rates if rate]

    def _weights_of(self, model: str, backend: BackendName) -> int:
        """Bytes of weights, in memory, of a model that was measured; 0 for one that is gone."""
        try:
            entry = self._planner.store.get(split_ref(model)[0])
            return self._planner.appetite(entry, backend).reserved().weights
        except LmxError:
            return 0


def _sizes(wanted: Wanted, appetite: Appetite, room: Room) -> Json:
    """What it takes, and whether that is there: as asked, or as it would be loaded."""
    slots = wanted.slots or appetite.slots
    context = wanted.context or appetite.context
    if context > appetite.most:
        raise invalid(
            f"The model was made for windows of {appetite.most} tokens, not {context}.",
            param="context",
            code="context_too_long",
        )
    full, reserved = appetite.full(context, slots), appetite.reserved()
    asked = wanted.context is not None or wanted.slots is not None
    need = full if asked else reserved
    return {
        "context": context,
        "slots": slots,
        "fits": room.fits(need.total),
        "fits_for": "as asked" if asked else "as configured",
        "full": _need(full),
        "reserved": _need(reserved),
        "largest_context": _largest(appetite, room, slots),
        "largest_context_one_slot": _largest(appetite, room, 1),
    }


def _need(need: MemoryNeed) -> Json:
    return {
        "weights_bytes": need.weights,
        "cache_bytes": need.kv,
        "buffer_bytes": need.peak,
        "total_bytes": need.total,
    }


def _largest(appetite: Appetite, room: Room, slots: int) -> Json:
    return {
        "slots": slots,
        "now": appetite.largest_context(room.free_bytes, slots),
        "after_unloading": appetite.largest_context(room.free_bytes + room.idle_bytes, slots),
    }


def _described(offer: Offer, info: ModelInfo | None) -> ModelEntry:
    """An entry as the store would have it, without the files."""
    size = offer.total_bytes
    if info is None:
        info = ModelInfo(offer.format, "", 0, offer.quantisation, 0, size, size, 0, 0)
    return ModelEntry(
        name=offer.name,
        format=offer.format,
        path=Path(offer.name),
        size_bytes=size,
        source=offer.origin,
        info=info,
        licence=offer.licence,
    )


def _no_speed(how: str) -> Json:
    return {"tokens_per_s": None, "source": "unknown", "how": how}


def _alone(result: Json) -> float:
    """Tokens a second of one answer, measured while no other ran; 0 where it was not."""
    asked, speed = result.get("asked", {}), result.get("tokens_per_s", {})
    if asked.get("concurrency") != 1 or result.get("disturbed"):
        return 0.0
    return float(speed.get("p50") or 0.0)


def _copy_rate(clock: Clock) -> float:
    """Bytes a second that a copy reads and writes, the best of a few."""
    source, target = bytearray(_COPIED_BYTES), bytearray(_COPIED_BYTES)
    best = 0.0
    for _ in range(_TRIES):  # the first one also makes the pages
        began = clock.monotonic()
        target[:] = source
        best = max(best, 2 * _COPIED_BYTES / max(1e-6, clock.monotonic() - began))
    return best
