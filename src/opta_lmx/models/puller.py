"""The one way in for models from elsewhere: starters by name, everything else from the hub."""

import threading

from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.hub_files import parse_ref
from opta_lmx.models.manifest import ModelEntry
from opta_lmx.models.offer import Offer, Pin, starter_offer, stored_offer
from opta_lmx.models.progress import ProgressCallback, ignore
from opta_lmx.models.starters import STARTERS, ensure
from opta_lmx.models.store import ModelStore


class Puller:
    """Fetches models by reference.

    Args:
        store: where models are registered.
        endpoint: the hub's address; None for the Hugging Face hub.
        token: access token for gated and private repositories.
        enabled: False refuses every fetch, but still answers for models already there.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        enabled: bool = True,
    ) -> None:
        self._store = store
        self._hub = HubPuller(store, endpoint=endpoint, token=token)
        self._enabled = enabled

    def model_name(self, ref: str) -> str:
        """The name the model will have. LmxError: `invalid_model_name`."""
        return stored_as(ref)

    def look(self, ref: str) -> Offer:
        """What `pull` would bring; of a hub model only the list of its files is fetched.

        Raises:
            LmxError: as `pull`, as far as a listing tells.
        """
        present = self._stored(ref)
        if present is not None:
            return stored_offer(present)
        if ref in STARTERS:
            return starter_offer(STARTERS[ref])
        return self._hub.look(ref)

    def describe(self, ref: str) -> tuple[Offer, ModelInfo | None]:
        """As `look`, with what the model says of itself; None for a starter not yet there.

        Of a hub model the beginnings of its files are fetched. Raises as `look`.
        """
        present = self._stored(ref)
        if present is not None:
            return stored_offer(present), present.info
        if ref in STARTERS:
            return starter_offer(STARTERS[ref]), None
        return self._hub.describe(ref)

    def held_bytes(self, ref: str) -> int:
        """What an unfinished pull has left on the disk; starters leave nothing."""
        return 0 if ref in STARTERS else self._hub.held_bytes(ref)

    def _stored(self, ref: str) -> ModelEntry | None:
        """The model in the store. Raises FORBIDDEN `downloads_disabled` where that is all."""
        name = self.model_name(ref)
        if ref in STARTERS or not self._enabled:
            present = self._store.find(name)
            if present is None and not self._enabled:
                raise _disabled()
            return present
        return None

    def pull(
        self,
        ref: str,
        progress: ProgressCallback = ignore,
        cancel: threading.Event | None = None,
        pin: Pin | None = None,
    ) -> ModelEntry:
        """Bring a starter (`starter`, `starter-long`) or a hub model into the store.

        Blocks: call it on a thread. Reports go to `progress` on that thread; setting `cancel`
        ends it within about a second, keeping what a hub pull has received. `pin`: just what
        `look` told of, and nothing newer.

        Raises:
            LmxError: those of `starters.ensure` and `HubPuller.pull`; FORBIDDEN
                `downloads_disabled`.
        """
        present = self._stored(ref)
        if present is not None:
            return present
        if ref in STARTERS:
            return ensure(self._store, ref, progress, cancel)
        return self._hub.pull(ref, progress, cancel, pin)


def stored_as(ref: str) -> str:
    """The name of the model that `ref` brings. LmxError: `invalid_model_name`."""
    return ref if ref in STARTERS else parse_ref(ref).model_name


def open_puller(store: ModelStore, settings: ModelsSettings) -> Puller:
    """What fetches models, as configured."""
    token = settings.hub_token
    return Puller(
        store,
        endpoint=settings.hub_endpoint,
        token=None if token is None else token.get_secret_value(),
        enabled=settings.downloads_enabled,
    )


def _disabled() -> LmxError:
    return LmxError(
        ErrorKind.FORBIDDEN,
        "Fetching models is switched off (models.downloads_enabled).",
        code="downloads_disabled",
    )
