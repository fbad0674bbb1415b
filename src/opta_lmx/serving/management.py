"""What model management is made of, put together: downloads, the shelf, fitting, probing."""

import contextlib
from pathlib import Path

import msgspec

from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine import download_book, load_times
from opta_lmx.engine.download_book import DownloadBook
from opta_lmx.engine.downloads import Downloads
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.offers import Offers
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.probing import Prober
from opta_lmx.engine.quantising import Quantising
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.shelf import Shelf
from opta_lmx.models.puller import open_puller
from opta_lmx.serving.benchmarking import Benchmarks
from opta_lmx.serving.fitting import Fitting, Machine


class Management(msgspec.Struct, frozen=True):
    """What the routes of model management talk to."""

    downloads: Downloads
    offers: Offers
    shelf: Shelf
    fitting: Fitting
    prober: Prober


class Ground(msgspec.Struct, frozen=True):
    """The rooms that model management is built upon; `home` is the state folder."""

    home: Path
    planner: Planner
    engine: Engine
    benchmarks: Benchmarks
    quantising: Quantising
    clock: Clock
    telemetry: Telemetry


def open_management(ground: Ground, settings: ModelsSettings) -> Management:
    """Put it together; downloads that an earlier run left unfinished are known at once."""
    home, planner, engine, clock = ground.home, ground.planner, ground.engine, ground.clock
    _tell_strays(planner, ground.telemetry)
    puller = open_puller(planner.store, settings)
    book = DownloadBook(home / download_book.FILE, puller.held_bytes, ground.telemetry)
    downloads = Downloads(puller.pull, ground.telemetry, clock, book)
    prober = Prober(engine, planner, home, (clock, ground.telemetry))

    def quantised(name: str) -> str | None:
        going = [job for job in ground.quantising.list() if not job.ended]
        named = any(job.record.model == name for job in going)
        return "being quantised" if named else None

    machine = Machine(
        memory=engine.memory,
        results=ground.benchmarks.results,
        load_times=lambda: LoadBook(home / load_times.FILE).times,
    )
    return Management(
        downloads=downloads,
        offers=Offers(puller, planner.store, downloads, settings.confirm_bytes, clock),
        shelf=Shelf(planner, engine, downloads, puller, (prober.uses, quantised)),
        fitting=Fitting(planner, puller, machine, clock),
        prober=prober,
    )


def _tell_strays(planner: Planner, telemetry: Telemetry) -> None:
    """Say which models of `models.adapters` are not there, by these names at least."""
    with contextlib.suppress(LmxError):  # a store that cannot be read says so where it is asked
        if strays := planner.stray_adapters():
            telemetry.log("warning", "adapters of no stored model", models=strays)
