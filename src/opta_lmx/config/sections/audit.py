"""What operators did: the section `audit`."""

from pydantic import Field

from opta_lmx.config.sections.base import Section


class AuditSettings(Section):
    """What is written down of operators' requests and commands, and for how long."""

    retention_days: int = Field(
        default=365,
        ge=1,
        le=3650,
        description="Days that rows of the audit log are kept; the oldest go first.",
    )
    reads: bool = Field(
        default=False,
        description="Also write down operators' requests that change nothing; those that show "
        "keys always are.",
    )
