"""The settings tree: the sections together, each field with its default and meaning."""

from typing import NamedTuple, Self, cast

from pydantic import SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.access import AccessSettings
from opta_lmx.config.sections.audit import AuditSettings
from opta_lmx.config.sections.base import Section
from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.logging import LoggingSettings
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.config.sections.oidc import OidcSettings
from opta_lmx.config.sections.protocol import ProtocolSettings
from opta_lmx.config.sections.queue import QueueSettings
from opta_lmx.config.sections.quotas import QuotasSettings
from opta_lmx.config.sections.responses import ResponsesSettings
from opta_lmx.config.sections.scheduling import SchedulingSettings
from opta_lmx.config.sections.security import SecuritySettings
from opta_lmx.config.sections.server import ServerSettings
from opta_lmx.config.sections.tls import TlsSettings
from opta_lmx.config.sections.websocket import WebsocketSettings


class _Shown(NamedTuple):
    """A key that commands may show, and what it is for; `narrow`: for some models alone."""

    key: SecretStr
    inference: bool = True
    admin: bool = True
    narrow: bool = False


class Settings(Section):
    """All sections; every field has a default."""

    server: ServerSettings = ServerSettings()
    security: SecuritySettings = SecuritySettings()
    access: AccessSettings = AccessSettings()
    quotas: QuotasSettings = QuotasSettings()
    audit: AuditSettings = AuditSettings()
    tls: TlsSettings = TlsSettings()
    oidc: OidcSettings = OidcSettings()
    models: ModelsSettings = ModelsSettings()
    engine: EngineSettings = EngineSettings()
    memory: MemorySettings = MemorySettings()
    queue: QueueSettings = QueueSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    responses: ResponsesSettings = ResponsesSettings()
    websocket: WebsocketSettings = WebsocketSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _distinct_keys(self) -> Self:
        """No key is there twice. Whether there are enough is the profile's affair."""
        names = {plain_name(place) for place in range(len(self.server.api_keys))}
        secrets = {key.get_secret_value() for key in self.server.api_keys}
        for place, one in enumerate(self.access.keys):
            if one.name in names or one.key.get_secret_value() in secrets:
                what = "name" if one.name in names else "key"
                raise PydanticCustomError(
                    "key_taken",
                    "Entry {place} has the {what} of a key in server.api_keys",
                    {"place": place, "what": what},
                )
        return self

    def all_keys(self) -> list[SecretStr]:
        """The secrets of all keys, those without names first."""
        return [*self.server.api_keys, *(one.key for one in self.access.keys)]

    def secrets(self) -> list[str]:
        """All that must not be told, in a log or anywhere: keys, and what opens the hub."""
        token = self.models.hub_token
        held = [*self.all_keys(), *([] if token is None else [token])]
        return [one.get_secret_value() for one in held]

    def operators_key(self) -> SecretStr | None:
        """The key for operators' routes: one that is for models too, before one that is not.

        Where no key opens them, one of the others, of which the server then says what it lacks.
        """
        ranked = sorted(
            self._shown(), key=lambda one: (not one.admin, not one.inference, one.narrow)
        )
        return ranked[0].key if ranked else None

    def persons_key(self) -> SecretStr | None:
        """The key for models that a person at the terminal uses: an operator's, if it may.

        Where none is for models, one of the others, of which the server then says what it lacks.
        """
        ranked = sorted(
            self._shown(), key=lambda one: (not one.inference, one.narrow, not one.admin)
        )
        return ranked[0].key if ranked else None

    def clients_key(self) -> SecretStr | None:
        """The key to give to a client: for all models, without operators' routes, if there is one.

        A key for some models alone comes last, and one that is for none never.
        """
        fit = (one for one in self._shown() if one.inference)
        ranked = sorted(fit, key=lambda one: (one.narrow, one.admin))
        return ranked[0].key if ranked else None

    def _shown(self) -> list[_Shown]:
        """All keys, those without names, which open everything, first."""
        named = [
            _Shown(
                one.key, "inference" in one.scopes, "admin" in one.scopes, one.models is not None
            )
            for one in self.access.keys
        ]
        return [*map(_Shown, self.server.api_keys), *named]


def plain_name(place: int) -> str:
    """The name of the key at a place in `server.api_keys`."""
    return f"key-{place + 1}"


def fields() -> dict[str, FieldInfo]:
    """Every setting there is: dotted key (`section.key`) to its field, in the tree's order."""
    return {
        f"{section}.{key}": field
        for section, holder in Settings.model_fields.items()
        for key, field in cast(type[Section], holder.annotation).model_fields.items()
    }
