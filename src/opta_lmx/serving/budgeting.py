"""What one call takes of its key's budgets and of quotas: exactly, once, and back if it must be."""

from collections.abc import Sequence

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import GenerationRequest, Usage
from opta_lmx.scheduling.budgets import BudgetBook, BudgetState, Charge, answer_limit
from opta_lmx.serving.metering import Meter, Metering
from opta_lmx.tenancy.windows import Level

COUNTED = Usage(0, 0)
"""Of a call that only counts tokens: it is one request, and takes none."""


class Budgeting:
    """Opens an account for every request.

    Args:
        clock: time.
        telemetry: told of refusals.

    Attributes:
        metering: quotas and the usage ledger, where there are any.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self.book = BudgetBook()
        self.clock = clock
        self.telemetry = telemetry
        self.metering: Metering | None = None

    def account(self, principal: Principal) -> "Account":
        """What one request of this key takes from its budgets: nothing yet."""
        meter = None if self.metering is None else self.metering.meter(principal)
        return Account(self, principal, meter)

    async def refresh(self) -> None:
        """Take over quotas that any process has changed. Never raises LmxError."""
        if self.metering is not None:
            await self.metering.quotas.refresh()

    def state(self, principal: Principal) -> BudgetState | None:
        """The key's minute as it stands; None where no limit is set."""
        return self.book.state(principal, self.clock.monotonic())


class Account:
    """What one request takes from its key's budgets, and from the quotas of key and tenant.

    Args:
        budgeting: holds the budgets of all keys.
        principal: the key's owner.
        meter: takes from quotas; None where there are none.

    Attributes:
        model: what the request is counted under, once it is known.
    """

    def __init__(
        self, budgeting: Budgeting, principal: Principal, meter: Meter | None = None
    ) -> None:
        self._budgeting = budgeting
        self._principal = principal
        self._meter = meter
        self._charge: Charge | None = None
        self._ended = False
        self.model = ""

    @property
    def counts_prompts(self) -> bool:
        """True where prompts are bounded, so that their exact length matters."""
        budgets = self._principal.budgets
        bounded = not (budgets.prompt_tokens is None and budgets.prompt_tokens_per_minute is None)
        return bounded or (self._meter is not None and self._meter.counts_prompts)

    @property
    def levels(self) -> Sequence[Level]:
        """What is left of quotas, as this request saw it last."""
        return () if self._meter is None else self._meter.levels

    def limited(self, request: GenerationRequest, default: int | None) -> GenerationRequest:
        """The request, with the lower of cap and default where it leaves the length open."""
        if request.max_tokens is not None:
            return request
        limit = answer_limit(self._principal.budgets, None, default, request.limit_field)
        return msgspec.structs.replace(request, max_tokens=limit)

    def check_answer(self, request: GenerationRequest) -> None:
        """Raise INVALID_REQUEST where a longer answer is asked for than the key allows."""
        budgets = self._principal.budgets
        try:
            answer_limit(budgets, request.max_tokens, None, request.limit_field)
        except LmxError as error:
            raise self._refused(error) from None

    async def enter(self) -> None:
        """Take one request from quotas, at the first gate. Raises what `Meter.enter` raises."""
        if self._meter is None:
            return
        try:
            await self._meter.enter()
        except LmxError as error:
            raise self._refused(error) from None

    async def charge(self, tokens: int, param: str) -> None:
        """Take the prompts' exact tokens from budgets and quotas: from all of them, or none.

        Args:
            tokens: of all the request's prompts.
            param: the request field that holds them.

        Raises:
            LmxError: what `take` and `Meter.take_prompt` raise.
        """
        self.take(tokens, param)
        if self._meter is None:
            return
        try:
            await self._meter.take_prompt(tokens, param)
        except LmxError as error:
            self._give_back_budget()
            raise self._refused(error) from None

    def take(self, tokens: int, param: str) -> None:
        """Take the exact tokens of the request's prompts, in place of what it took before.

        Args:
            tokens: of all its prompts.
            param: the request field that holds them.

        Raises:
            LmxError: INVALID_REQUEST for more than can ever pass, RATE_LIMITED for more than
                the running minute has left; nothing is taken then.
        """
        self._give_back_budget()
        book, now = self._budgeting.book, self._budgeting.clock.monotonic()
        try:
            self._charge = book.admit(self._principal, tokens, now, param)
        except LmxError as error:
            raise self._refused(error) from None

    def give_back(self) -> None:
        """The request will not run: what it took is free again. Idempotent."""
        self._give_back_budget()
        if self._meter is not None:
            self._meter.give_back()

    def end(self, usage: Usage | None, *, ran: bool, failed: bool) -> None:
        """Close the account: the call is over, and counted in the ledger. Idempotent.

        Args:
            usage: what was used; None where nothing came of it. Unless it ran, the request is given
                back then.
            ran: an engine was given any of it: its tokens are paid for.
            failed: it ended with an error.
        """
        if self._ended:
            return
        self._ended = True
        if not ran:
            self._give_back_budget()
        if self._meter is not None:
            if usage is not None:
                self._meter.used(usage.completion_tokens)
            if usage is None and not ran:
                self._meter.give_back()
            self._meter.end()
        metering = self._budgeting.metering
        if metering is not None:
            metering.record(self._principal, self.model, usage, failed=failed)

    async def settle(self) -> None:
        """Return once what the call used is kept, so that no end of the server forgets it."""
        if self._meter is not None:
            await self._meter.settle()

    def _give_back_budget(self) -> None:
        if self._charge is not None:
            self._budgeting.book.refund(self._charge, self._budgeting.clock.monotonic())
            self._charge = None

    def _refused(self, error: LmxError) -> LmxError:
        self._budgeting.telemetry.count("admission_rejections_total", reason=error.code)
        return error
