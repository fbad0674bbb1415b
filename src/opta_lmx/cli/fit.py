"""`fit`: whether a model fits this machine, with what window, and how fast it will be."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opta_lmx.cli.session import (
    ConfigOption,
    JsonOption,
    KeyOption,
    Session,
    UrlOption,
    key_for,
    open_session,
)
from opta_lmx.core.errors import LmxError

if TYPE_CHECKING:
    from opta_lmx.serving.fitting import Wanted

_VERDICTS = {
    "now": "fits",
    "after_unloading": "fits once idle models are unloaded",
    "no": "does not fit",
}
_LEAST_S = 0.1


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(fit)


def fit(
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A stored model, a starter, or a hub id.")
    ],
    backend: Annotated[
        Literal["mlx", "gguf"] | None, typer.Option("--backend", help="Engine to run it on.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", min=1, help="Tokens of each request's window.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, max=1024, help="Requests at once.")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a model would fit, with what window, and how fast it would be."""
    from opta_lmx.cli.terminal import print_json
    from opta_lmx.serving.fitting import Wanted

    session = open_session(config)
    found = _fit(session, Wanted(name, backend, context, slots), url, api_key)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found["fits"] == "no":
        raise typer.Exit(1)


def _fit(
    session: Session, wanted: "Wanted", url: str | None, api_key: str | None
) -> dict[str, Any]:
    """Ask the running server, which knows what is loaded; reckon here where none runs."""
    import msgspec

    from opta_lmx.cli.client import LOAD_READ_S, ServerClient
    from opta_lmx.cli.trust import own_trust

    key = api_key or key_for(session, url)
    with ServerClient(url or session.server_url, key, own_trust(session, url)) as client:
        try:
            client.get("/healthz")
        except LmxError:
            if url is not None:
                raise
            return _alone(session, wanted)
        asked = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
        return client.post("/admin/models/fit", asked, read_s=LOAD_READ_S)


def _alone(session: Session, wanted: "Wanted") -> dict[str, Any]:
    """The same without a server: nothing is loaded then."""
    import asyncio

    from opta_lmx.cli.local import open_store
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.engine import load_times
    from opta_lmx.engine.load_times import LoadBook
    from opta_lmx.engine.memory import MemoryStatus
    from opta_lmx.engine.planner import Planner
    from opta_lmx.engine.sizing import budget_bytes
    from opta_lmx.models.puller import open_puller
    from opta_lmx.serving.fitting import Fitting, Machine

    settings, home = session.settings, session.home
    store = open_store(session)
    store.free_bytes()
    planner = Planner(store, settings.engine, home, settings.models, settings.memory)
    budget = budget_bytes(settings.memory)

    async def no_results(_: str | None, __: int) -> list[dict[str, Any]]:
        return []

    machine = Machine(
        memory=lambda: MemoryStatus(budget, 0, budget, ()),
        results=no_results,
        load_times=lambda: LoadBook(home / load_times.FILE).times,
    )
    fitting = Fitting(planner, open_puller(store, settings.models), machine, SystemClock())
    return asyncio.run(fitting.fit(wanted))


def _show(found: dict[str, Any]) -> None:
    from opta_lmx.cli.terminal import printable, size, table

    full, reserved, memory = found["full"], found["reserved"], found["memory"]
    verdict = _VERDICTS[found["fits"]]
    need = full if found["fits_for"] == "as asked" else reserved
    typer.echo(
        printable(
            f"{found['model']} {verdict} ({found['fits_for']}): {size(need['total_bytes'])} of "
            f"{size(memory['free_bytes'])} free, {size(memory['budget_bytes'])} for all models."
        )
    )
    if not found["installed"]:
        typer.echo(f"Its engine is not installed: pip install 'opta-lmx[{found['backend']}]'")
    rows = [
        ("weights", size(full["weights_bytes"])),
        (
            f"caches, {found['slots']} x {found['context']} tokens, full",
            size(full["cache_bytes"]),
        ),
        ("caches, as the server keeps free for it", size(reserved["cache_bytes"])),
        ("working memory", size(full["buffer_bytes"])),
        (f"largest window, {found['slots']} slots", _window(found["largest_context"])),
        ("largest window, one slot", _window(found["largest_context_one_slot"])),
        ("loading", _loading(found["load"])),
        ("speed", _speed(found["speed"])),
    ]
    table({"": False, "VALUE": False}, rows)
    if found["from"] == "size":
        typer.echo("Only its size is known before it is fetched: caches are left out.")


def _window(largest: dict[str, int]) -> str:
    now, later = largest["now"], largest["after_unloading"]
    if later > now:
        return f"{now} tokens, {later} with idle models unloaded"
    return f"{now} tokens" if now else "none"


def _loading(load: dict[str, Any]) -> str:
    text = f"{load['seconds']:.1f} s ({load['source']})"
    if load["conversion_s"] > _LEAST_S:
        text += f", and {load['conversion_s']:.0f} s of conversion the first time"
    return text


def _speed(speed: dict[str, Any]) -> str:
    if speed["tokens_per_s"] is None:
        return str(speed["how"])
    return f"{speed['tokens_per_s']:.1f} tokens/s ({speed['source']}: {speed['how']})"
