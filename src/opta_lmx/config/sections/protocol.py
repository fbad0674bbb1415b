"""How requests are read: the section `protocol`."""

from typing import Literal

from pydantic import Field

from opta_lmx.config.sections.base import Section

UnknownFields = Literal["refuse", "warn"]


class ProtocolSettings(Section):
    """How strictly requests are read, whatever dialect they are in."""

    unknown_fields: UnknownFields = Field(
        default="refuse",
        description="`refuse` answers 400; `warn` ignores them and names them in a header.",
    )
    max_choices: int = Field(
        default=16, ge=1, le=128, description="Most answers one request may ask for (`n`)."
    )
