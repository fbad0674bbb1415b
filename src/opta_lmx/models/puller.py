"""The one way in for models from elsewhere: starters by name, everything else from the hub."""

import threading

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.hub_files import parse_ref
from opta_lmx.models.manifest import ModelEntry
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
        return ref if ref in STARTERS else parse_ref(ref).model_name

    def pull(
        self,
        ref: str,
        progress: ProgressCallback = ignore,
        cancel: threading.Event | None = None,
    ) -> ModelEntry:
        """Bring a starter (`starter`, `starter-long`) or a hub model into the store.

        Blocks: call it on a thread. Reports go to `progress` on that thread; setting `cancel`
        ends it within about a second, keeping what a hub pull has received.

        Raises:
            LmxError: those of `starters.ensure` and `HubPuller.pull`; FORBIDDEN
                `downloads_disabled`.
        """
        name = self.model_name(ref)
        if not self._enabled:
            present = self._store.find(name)
            if present is not None:
                return present
            raise LmxError(
                ErrorKind.FORBIDDEN,
                "Fetching models is switched off (models.downloads_enabled).",
                code="downloads_disabled",
            )
        if ref in STARTERS:
            return ensure(self._store, ref, progress, cancel)
        return self._hub.pull(ref, progress, cancel)
