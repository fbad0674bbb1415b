"""How running requests share the machine: the section `scheduling`."""

from pydantic import Field

from opta_lmx.config.sections.base import Section


class SchedulingSettings(Section):
    """How requests share the machine while they run."""

    adaptive: bool = Field(
        default=True,
        description="Run fewer requests at once while a model's steps are slower than usual.",
    )
    background_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Device time for background work while interactive requests run beside it "
        "on another model.",
    )
