"""The models on this machine as commands see them."""

from opta_lmx.cli.session import Session
from opta_lmx.models.store import ModelEntry, ModelStore


def open_store(session: Session) -> ModelStore:
    """The store of this configuration."""
    return ModelStore(session.settings.models.root(session.home))


def window(session: Session, entry: ModelEntry) -> int:
    """Tokens one request may use: what was configured, but never more than was trained."""
    trained = entry.info.context_length
    wished = session.settings.engine.for_model(entry.name).context or trained
    return min(wished, trained) if trained else wished
