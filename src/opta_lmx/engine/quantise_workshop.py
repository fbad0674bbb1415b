"""The work of a quantising job: what is checked before it, where it is done, what becomes of it."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from opta_lmx.backends import registry
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.backends.quantize.outcome import Outcome
from opta_lmx.backends.quantize.rules import (
    Scheme,
    output_bytes,
    refuse_source,
    scheme,
    unpacked_bytes,
)
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.quantise_child import quantise
from opta_lmx.engine.quantise_jobs import Job, Made, Record, Step, Wish
from opta_lmx.engine.settle import settle
from opta_lmx.models.names import checked_name
from opta_lmx.models.store import ModelEntry, ModelStore, Provenance


class Workshop:
    """What a job is done with; every method blocks on the disk but `make`.

    Args:
        planner: finds the source by any name clients may use for it.
        home: state folder; kernels that MLX compiles lie below it.
    """

    def __init__(self, planner: Planner, home: Path) -> None:
        self._planner = planner
        self._folder = home / "cache" / "mlx-quantise"

    @property
    def store(self) -> ModelStore:
        """Where models come from and go to."""
        return self._planner.store

    def check(self, wish: Wish) -> tuple[ModelEntry, str, Scheme]:
        """Refuse what cannot be done before any work; the source, the new name, the scheme.

        Raises:
            LmxError: INVALID_REQUEST; MODEL_NOT_FOUND; CONFLICT `model_exists`;
                INSUFFICIENT_RESOURCES `insufficient_disk`.
        """
        chosen = scheme(wish.mode, wish.bits, wish.group_size)
        registry.require("mlx")
        entry = self.store.get(self._planner.reference(wish.model).name)
        refuse_source(entry.info)
        with _about_the_name():
            name = checked_name(wish.name or f"{entry.name}-{chosen.suffix}")
            self.store.refuse_clash(name)
        self.refuse_full_disk(entry, chosen)
        return entry, name, chosen

    def refuse_leaving(self, entry: ModelEntry) -> None:
        """Raise LmxError(CONFLICT, code `model_busy`) for a source that is being deleted."""
        self._planner.refuse_leaving(entry.name)

    def refuse_full_disk(self, entry: ModelEntry, chosen: Scheme) -> None:
        """Raise INSUFFICIENT_RESOURCES `insufficient_disk` where the work would not fit."""
        between = 0 if entry.converted else unpacked_bytes(entry.info)
        self.store.refuse_full_disk(output_bytes(entry.info, chosen) + between)

    @contextmanager
    def reserved(self, job: Job) -> Generator[tuple[ModelEntry, Path]]:
        """The source, and a folder to work in, gone after the block; the new name is held."""
        name = job.record.name
        with _about_the_name(), self.store.claim(name):
            self.store.refuse_clash(name)
            entry = self.store.get(job.record.model)
            self.refuse_full_disk(entry, job.scheme)
            with self.store.temporary() as folder:
                yield entry, folder

    async def make(self, job: Job, entry: ModelEntry, folder: Path) -> None:
        """Quantise, and make the result a stored model; what it is goes into the record."""
        source = entry.path
        if entry.format == "gguf" and self.store.has_conversion(entry.name):
            source = self.store.conversion_dir(entry.name)
        environment = await asyncio.to_thread(worker_environment, self._folder)

        def on_step(step: Step) -> None:
            job.step = step
            job.tell()

        draft = folder / "model"
        made = await quantise(source, draft, job.scheme, environment.variables, on_step)
        await settle(asyncio.to_thread(self._publish, job, entry, draft, made))

    def made(self, record: Record) -> Made | None:
        """What an unfinished job of a server that is gone did bring into the store."""
        try:
            entry = self.store.find(record.name)
        except LmxError:
            return None
        if entry is None or entry.source != _origin(record.model) or record.started_ms is None:
            return None
        if entry.created_ms < record.started_ms:
            return None
        bits = 8 * entry.info.weights_bytes / max(1, entry.info.parameters)
        return Made(entry.size_bytes, round(bits, 3))

    def _publish(self, job: Job, entry: ModelEntry, draft: Path, made: Outcome) -> None:
        kept = Provenance(_origin(entry.name), entry.licence, entry.notice, entry.info.sampling)
        stored = self.store.publish(job.record.name, draft, "", list(made.files), kept)
        packed = made.packed
        job.record.result = Made(
            stored.size_bytes, packed.bits_per_weight, packed.quantised, packed.kept
        )


@contextmanager
def _about_the_name() -> Generator[None]:
    """Faults of the new model's name are those of the field `name`."""
    try:
        yield
    except LmxError as error:
        if error.code in ("model_exists", "model_busy", "invalid_model_name"):
            error.param = "name"
        raise


def _origin(model: str) -> str:
    """Where a quantised model is from, as its manifest says."""
    return f"quantised:{model}"
