"""What outlives the server: who crashed, what was loaded; and what a start makes of it."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine import quarantine, restoring
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.quarantine import Health
from opta_lmx.engine.restoring import Journal, Noted
from opta_lmx.engine.vitals import Vitals, interrupted
from opta_lmx.scheduling.retry import RestartPolicy


class RecoveryOptions(msgspec.Struct, frozen=True):
    """Where it is kept, and what is done with it.

    `folder` holds the files (None: nothing outlives the server); `restart_policy` makes the rule
    after how many crashes a model is quarantined; `restore`: after a stop without order, models
    that were loaded are loaded again.
    """

    restart_policy: Callable[[], RestartPolicy]
    folder: Path | None = None
    restore: bool = True


class Recovery:
    """The books of crashes and of loaded models, brought together.

    Args:
        options: see there.
        clock: time.
        telemetry: where failures are told.

    Attributes:
        health: how often models crashed, and which of them are quarantined.
        journal: what is loaded, for the next start.
    """

    def __init__(self, options: RecoveryOptions, clock: Clock, telemetry: Telemetry) -> None:
        folder = options.folder
        crashes = None if folder is None else folder / quarantine.FILE
        loaded = None if folder is None else folder / restoring.FILE
        self._wanted = options.restore
        self.health = Health(crashes, options.restart_policy, clock, telemetry)
        self.journal = Journal(loaded, clock, telemetry)

    @property
    def safe(self) -> bool:
        """True in safe mode, in which nothing is loaded unasked."""
        return self.journal.safe

    async def begin(self) -> None:
        """The server starts: a load that the last run was killed at is a crash of the model."""
        for note in await self.journal.begin(restore=self._wanted):
            self.health.crashed(note.model, note.backend, interrupted(note.model))

    def started(self, plan: Plan, reason: str) -> Vitals:
        """A model is to be loaded for this reason; what its runtime tells of it."""
        self.journal.started(Noted(plan.ref, plan.backend, plan.context, reason))
        return Vitals(plan, self.health, self.journal)

    async def reset(self, ref: str, canonical: Callable[[str], str]) -> tuple[str, bool]:
        """Forget a model's crashes, on the disk too, and let it in again.

        Args:
            ref: any reference to it, or its id.
            canonical: the id of a reference. Raises MODEL_NOT_FOUND.

        Returns:
            The model's id, and whether it was quarantined.
        """
        # One that is not in the store any more is known by its id only.
        model = ref if self.health.knows(ref) else canonical(ref)
        was = self.health.reset(model) is not None
        await self.health.saved()
        return model, was

    def stopping(self) -> None:
        """The server is told to stop: nothing that happens from here on is held against anybody."""
        self.journal.freeze()

    async def close(self) -> None:
        """The run ends in order."""
        await self.health.saved()
        await self.journal.end()
