"""Whom commands trust, and which certificate they show, at this configuration's own server."""

import ssl
from typing import TYPE_CHECKING

from opta_lmx.core.errors import LmxError, invalid

if TYPE_CHECKING:
    from opta_lmx.cli.session import Session

OWN = "cli"
"""The name of the client's certificate that commands show: `opta-lmx tls issue cli`."""


def own_trust(session: "Session", url: str | None = None) -> ssl.SSLContext | None:
    """What commands need to speak to the own server at `url` (None: the configured address).

    None where it is not encrypted, or not this configuration's: then as everybody does. The
    state folder's authority is trusted besides those of the system.

    Raises:
        LmxError: INVALID_REQUEST for files of that folder that are not sound.
    """
    own = session.server_url
    if not own.startswith("https:") or (url is not None and url.rstrip("/") != own):
        return None
    from opta_lmx.security.tls.folder import AUTHORITY, CLIENTS, FOLDER

    folder = session.home / FOLDER
    authority = folder / f"{AUTHORITY}.pem"
    shown = folder / CLIENTS / f"{OWN}.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    try:
        if authority.exists():
            context.load_verify_locations(authority)
        if shown.exists():
            context.load_cert_chain(shown, shown.with_suffix(".key"))
    except OSError as error:  # SSLError is one
        raise _unsound(str(folder), error) from None
    return context


def _unsound(folder: str, error: OSError) -> LmxError:
    return invalid(f"The certificates in {folder} cannot be used: {error}.", param="tls")
