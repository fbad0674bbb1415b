"""Who talks to a starter is told, once, of the best model that this machine could run instead."""

import contextlib
import shutil
import threading
from urllib.parse import quote

from opta_lmx.cli.session import Session
from opta_lmx.core.errors import LmxError
from opta_lmx.models.names import split_ref
from opta_lmx.models.recommended import Recommended, best_for
from opta_lmx.models.starters import STARTERS

PATIENCE_S = 1.0
"""Longest time that the hub may take to answer, and that anybody waits for it."""


class Proposal:
    """Finds a better model in the background, while the starter talks.

    The hub is asked one thing: whether it has that model. It is not asked where downloads are
    switched off, nor where the best model for the machine is on disk.

    Args:
        session: settings and state folder of this machine.
        model: who talks.
        url: the server that is talked to, if not the configured one.
    """

    def __init__(self, session: Session, model: str, url: str | None = None) -> None:
        self._session = session
        self._line = ""
        self._thread: threading.Thread | None = None
        here = url is None or url.rstrip("/") == session.server_url
        if here and split_ref(model)[0] in STARTERS and session.settings.models.downloads_enabled:
            self._thread = threading.Thread(target=self._look, name="proposal", daemon=True)
            self._thread.start()

    def line(self) -> str:
        """What to say now: once, and nothing where there is nothing to be said."""
        if self._thread is None:
            return ""
        self._thread.join(PATIENCE_S)
        if not self._thread.is_alive():
            self._line, line = "", self._line
            return line
        self._thread = None
        return ""

    def _look(self) -> None:
        """Fill the line. Without a hub, or with one that is slow, there is none."""
        import httpx

        with contextlib.suppress(LmxError, OSError, httpx.HTTPError, httpx.InvalidURL):
            found = candidate(self._session)
            if found is not None and _is_at_hub(self._session, found):
                self._line = _told(found)


def candidate(session: Session) -> Recommended | None:
    """The best model for this machine's memory and engines; None where it is here, or too large.

    Raises LmxError where the store cannot be read.
    """
    from opta_lmx.backends.registry import missing_modules
    from opta_lmx.cli.local import open_store
    from opta_lmx.cli.machine import existing_parent
    from opta_lmx.engine.sizing import budget_bytes
    from opta_lmx.models.puller import stored_as

    settings = session.settings
    formats = {name for name in ("mlx", "gguf") if not missing_modules(name)}
    found = best_for(budget_bytes(settings.memory), formats)
    if found is None or found.ref in STARTERS:
        return None
    if open_store(session).find(stored_as(found.ref)) is not None:
        return None
    free = shutil.disk_usage(existing_parent(settings.models.root(session.home))).free
    return found if found.size_bytes < free else None


def _is_at_hub(session: Session, model: Recommended) -> bool:
    import httpx
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    endpoint = session.settings.models.hub_endpoint or constants.ENDPOINT
    repo = "/".join(model.ref.split("/")[:2])
    url = f"{endpoint.rstrip('/')}/api/models/{quote(repo)}"
    return httpx.get(url, timeout=PATIENCE_S).is_success


def _told(model: Recommended) -> str:
    from opta_lmx.cli.terminal import size

    return (
        f"This machine should run {model.title}, which says more: {size(model.size_bytes)}, "
        f"licence {model.licence}. Get it with: opta-lmx pull {model.ref}"
    )
