"""`Serving`: the door every route and agent step goes through to reach a model."""

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import GenerationRequest
from opta_lmx.engine.residency import Engine, server_stopping
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.serving.run import ModelRun, RunLimits


class Ticket(msgspec.Struct, frozen=True):
    """A place in a model's line, taken at the first gate."""

    runtime: ModelRuntime
    number: int

    def give_back(self) -> None:
        """Leave the line without having run."""
        self.runtime.leave(self.number, submitted=False)


class Serving:
    """Admits model calls and runs them."""

    def __init__(
        self, engine: Engine, limits: RunLimits, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._clock = clock
        self._telemetry = telemetry
        self.draining = False

    def is_loaded(self, model: str) -> bool:
        """True when a call would not have to load the model first."""
        return self._engine.find(model) is not None

    def gate(self, model: str) -> Ticket:
        """First gate, before the messages are even parsed: counts only, no waiting.

        Raises:
            LmxError: MODEL_NOT_FOUND; RATE_LIMITED when the line is full; UNAVAILABLE while
                draining or when the model is out of service.
        """
        if self.draining:
            raise server_stopping()
        runtime = self._engine.runtime(model)
        if runtime.error is not None:
            raise runtime.error.again()
        try:
            return Ticket(runtime, runtime.line.enter())
        except LmxError as error:
            self._telemetry.count("admission_rejections_total", reason=error.code)
            raise

    def run(self, ticket: Ticket, request: GenerationRequest) -> ModelRun:
        """The call itself; nothing happens before `ModelRun.open`. Close it in any case."""
        return ModelRun(
            ticket.runtime,
            ticket.number,
            request,
            self._limits,
            (self._clock, self._telemetry),
        )
