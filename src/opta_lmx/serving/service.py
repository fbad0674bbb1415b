"""`Serving`: the door every route and agent step goes through to reach a model."""

from collections.abc import Callable, Collection, Sequence

import msgspec

from opta_lmx.backends.frames import ModelKind
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.core.principal import Caller, Principal
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import GenerationRequest
from opta_lmx.engine.residency import Engine, check_kind, server_stopping
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.models.presets import Preset
from opta_lmx.serving.access import ModelAccess
from opta_lmx.serving.answering import Answering
from opta_lmx.serving.budgeting import COUNTED, Account, Budgeting
from opta_lmx.serving.group import RunGroup
from opta_lmx.serving.presets import filled
from opta_lmx.serving.prompts import PromptBatch
from opta_lmx.serving.run import ModelRun, RunLimits

WRITERS: tuple[ModelKind, ...] = ("chat",)


class Ticket(msgspec.Struct, frozen=True):
    """Places in a model's line, taken at the first gate: one for each answer.

    `account` is what the request takes of its caller's budgets, `preset` what fills it, `adapter`
    the model's one that it named, if any.
    """

    runtime: ModelRuntime
    numbers: tuple[int, ...]
    caller: Caller
    account: Account
    preset: Preset | None = None
    adapter: str = ""

    def give_back(self) -> None:
        """Leave the line without having run, and give back what was taken of quotas."""
        for number in self.numbers:
            self.runtime.leave(number, submitted=False)
        self.account.give_back()


def _no_preset(ref: str) -> Preset | None:  # noqa: ARG001  (`Serving`)
    return None


class Serving:
    """Admits model calls and runs them.

    Args:
        engine: the models.
        limits: waiting and answer bounds.
        clock: time.
        telemetry: metrics.
        preset_of: the preset that a reference means, if any; raises MODEL_NOT_FOUND.
    """

    def __init__(
        self,
        engine: Engine,
        limits: RunLimits,
        clock: Clock,
        telemetry: Telemetry,
        preset_of: Callable[[str], Preset | None] = _no_preset,
    ) -> None:
        self._engine = engine
        self._preset_of = preset_of
        self._limits = limits
        self._clock = clock
        self._telemetry = telemetry
        self.access = ModelAccess(engine.resolver)
        self.budgeting = Budgeting(clock, telemetry)
        self.draining = False

    def is_loaded(self, model: str, owner: Principal) -> bool:
        """True when a call would not have to load the model first, or is refused anyway."""
        return not self.access.allows(owner, model) or self._engine.find(model) is not None

    def refuse_draining(self) -> None:
        """Raise UNAVAILABLE while the server ends: nothing is begun that would outlive it."""
        if self.draining:
            raise server_stopping()

    async def admit(
        self,
        model: str,
        answers: int = 1,
        kinds: Collection[ModelKind] = WRITERS,
        param: str = "n",
        *,
        caller: Caller,
        account: Account,
    ) -> Ticket:
        """Pass the first gate, taking one request from the caller's quotas before.

        Args:
            model: as for `gate`, like those that follow.
            answers: how many.
            kinds: made for what.
            param: names the number.
            caller: who asks.
            account: of the caller (`Budgeting.account`), from which the request is taken.

        Raises:
            LmxError: RATE_LIMITED naming the quota that is used up; UNAVAILABLE
                `quota_store_unavailable`; what `gate` raises, and nothing was taken then.
        """
        self.refuse_draining()
        await account.enter()
        try:
            return self.gate(model, answers, kinds, param, caller, account=account)
        except BaseException:  # whatever it is, what was taken must not be lost
            account.give_back()
            raise

    def gate(
        self,
        model: str,
        answers: int = 1,
        kinds: Collection[ModelKind] = WRITERS,
        param: str = "n",
        caller: Caller = Caller(),  # noqa: B008  (frozen)
        *,
        account: Account | None = None,
    ) -> Ticket:
        """First gate, before the messages are even parsed: counts only, no waiting.

        Args:
            model: reference to it, or to a preset.
            answers: how many are wanted side by side.
            kinds: what the model may be made for.
            param: the request field that asks for so many answers.
            caller: who asks.
            account: what has taken one request from quotas; none is taken here.

        Raises:
            LmxError: MODEL_NOT_FOUND; FORBIDDEN `model_not_allowed`;
                INVALID_REQUEST for a model of another kind, and for a preset that shapes text
                where none is made;
                RATE_LIMITED when the line is full; UNAVAILABLE while draining, when the model
                is out of service, or when it is still being loaded and will be for longer than
                a request may wait.
        """
        self.refuse_draining()
        self.access.check(caller.principal, model)
        preset = self._preset_of(model)
        if preset is not None and preset.shapes_text and "chat" not in kinds:
            raise self._misplaced(preset, kinds)
        runtime = self._engine.runtime(model, kinds)
        adapter = "" if model == runtime.plan.ref else self._engine.resolver.adapter(model)
        if runtime.error is not None:
            raise runtime.error.again()
        line = runtime.line
        most = line.width + line.rules.max_waiting
        if answers > most:
            raise invalid(
                f"This call asks for {answers} answers, more than the {most} that this model's "
                "line holds.",
                param=param,
            )
        try:
            runtime.admit_cold()
            numbers = line.enter_many(answers, caller)
            account = account or self.budgeting.account(caller.principal)
            account.model = runtime.plan.ref
            return Ticket(runtime, numbers, caller, account, preset, adapter)
        except LmxError as error:
            self._telemetry.count("admission_rejections_total", reason=error.code)
            raise

    def _misplaced(self, preset: Preset, kinds: Collection[ModelKind]) -> LmxError:
        """Why text is not to be shaped here, found out without loading the model."""
        check_kind(self._engine.resolver.plan(preset.id), kinds)
        return invalid(
            f"Preset '{preset.name}' says how text is made, and none is made here.",
            param="model",
            code="preset_not_applicable",
        )

    def run(
        self,
        ticket: Ticket,
        request: GenerationRequest,
        *,
        default_tokens: int | None = None,
        measured: bool = True,
    ) -> Answering:
        """The call itself; nothing happens before `open`. Close it in any case.

        The request is answered as many times as the ticket has places.

        Args:
            ticket: from `gate`.
            request: what to answer.
            default_tokens: how long the answer may be where the request does not say; the
                preset's bound or the server's own where this does not either.
            measured: False for what is only opened: of its caller it takes no more than the
                request.
        """
        group, request = self._group(ticket, request, default_tokens)
        return Answering(group, request, self._telemetry, ticket.account, measured=measured)

    def _group(
        self, ticket: Ticket, request: GenerationRequest, default_tokens: int | None
    ) -> tuple[RunGroup, GenerationRequest]:
        """The runs of a call, and its request with all that a preset fills."""
        request = filled(request, ticket.preset)
        request = msgspec.structs.replace(request, adapter=ticket.adapter)
        default = default_tokens or _bound(ticket) or self._limits.default_max_tokens
        limited = ticket.account.limited(request, default)
        ports = (self._clock, self._telemetry)
        runs = [
            ModelRun(ticket.runtime, number, limited, self._limits, ports)
            for number in ticket.numbers
        ]
        return RunGroup(runs), request

    def run_prompts(
        self,
        ticket: Ticket,
        requests: Sequence[GenerationRequest],
        *,
        default_tokens: int | None = None,
        generate: bool = True,
    ) -> PromptBatch:
        """One call with several prompts, which share the ticket's places evenly.

        Args:
            ticket: from `gate`, with as many places for each of the requests.
            requests: one for each prompt, alike but for it.
            default_tokens: see `run`; a preset's bound goes before it.
            generate: see `PromptBatch`.
        """
        each = len(ticket.numbers) // len(requests)
        default_tokens = _bound(ticket) or default_tokens
        parts: list[Answering] = []
        for place, request in enumerate(requests):
            numbers = ticket.numbers[place * each : (place + 1) * each]
            part = msgspec.structs.replace(ticket, numbers=numbers)
            group, filled_in = self._group(part, request, default_tokens)
            # The batch takes for all of them.
            parts.append(Answering(group, filled_in, self._telemetry))
        return PromptBatch(parts, each, ticket.account, generate=generate)

    async def count(self, ticket: Ticket, request: GenerationRequest) -> int:
        """Tokens of the request's prompt, as the model's own template and tokenizer make them.

        Waits while the model loads; the ticket is given back in any case.

        Raises:
            LmxError: the prompt cannot be rendered, or is so long that it was not even counted.
        """
        ports = (self._clock, self._telemetry)
        request = filled(request, ticket.preset)
        run = ModelRun(ticket.runtime, ticket.numbers[0], request, self._limits, ports)
        account = ticket.account
        try:
            tokens = await run.measure()
        except LmxError:
            account.end(None, ran=False, failed=True)
            raise
        else:
            account.end(COUNTED, ran=False, failed=False)
            return tokens
        finally:
            ticket.give_back()


def _bound(ticket: Ticket) -> int | None:
    """The longest answer that the request's preset allows, in tokens."""
    return None if ticket.preset is None else ticket.preset.max_tokens
