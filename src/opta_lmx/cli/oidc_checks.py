"""What `doctor` says of the identity provider: whether its keys can be had."""

import asyncio
from collections.abc import Iterator

from opta_lmx.cli.checks import Check
from opta_lmx.cli.session import Session
from opta_lmx.core.errors import LmxError
from opta_lmx.surfaces import identity_source
from opta_lmx.tenancy.tokens_keys import ProviderError
from opta_lmx.tenancy.tokens_source import fetch_keys

_SUBJECT = "identity provider"


def provider(session: Session) -> Iterator[Check]:
    """The provider whose tokens are taken; nothing where none are."""
    try:
        source = identity_source(session.settings.oidc, session.home)
    except LmxError as error:
        yield Check(_SUBJECT, "broken", f"{error.message.rstrip('.')}: correct it there")
        return
    if source is None:
        return
    try:
        keys = asyncio.run(fetch_keys(source))
    except ProviderError as error:
        text = f"{source.issuer} gives no keys ({error}): see oidc.issuer, oidc.jwks_url, oidc.ca"
        yield Check(_SUBJECT, "broken", text)
        return
    usable = set(session.settings.oidc.algorithms) & keys.algorithms
    if not usable:
        named = ", ".join(sorted(keys.algorithms))
        text = f"its keys are for {named} alone: name one of these in oidc.algorithms"
        yield Check(_SUBJECT, "broken", text)
        return
    yield Check(_SUBJECT, "ok", f"{source.issuer} has {len(keys)} keys to check tokens with")
