"""The token budgets of keys, as requests meet them: what is taken, and what is given back."""

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import GenerationRequest
from opta_lmx.scheduling.budgets import BudgetBook, BudgetState, Charge, answer_limit


class Budgeting:
    """Opens an account for every request.

    Args:
        clock: time.
        telemetry: told of refusals.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self.book = BudgetBook()
        self.clock = clock
        self.telemetry = telemetry

    def account(self, principal: Principal) -> "Account":
        """What one request of this key takes from its budgets: nothing yet."""
        return Account(self, principal)

    def state(self, principal: Principal) -> BudgetState | None:
        """The key's minute as it stands; None where no limit is set."""
        return self.book.state(principal, self.clock.monotonic())


class Account:
    """What one request takes from its key's budgets.

    Args:
        budgeting: holds the budgets of all keys.
        principal: the key's owner.
    """

    def __init__(self, budgeting: Budgeting, principal: Principal) -> None:
        self._budgeting = budgeting
        self._principal = principal
        self._charge: Charge | None = None

    @property
    def counts_prompts(self) -> bool:
        """True where prompts are bounded, so that their exact length matters."""
        budgets = self._principal.budgets
        return not (budgets.prompt_tokens is None and budgets.prompt_tokens_per_minute is None)

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

    def take(self, tokens: int, param: str) -> None:
        """Take the exact tokens of the request's prompts, in place of what it took before.

        Args:
            tokens: of all its prompts.
            param: the request field that holds them.

        Raises:
            LmxError: INVALID_REQUEST for more than can ever pass, RATE_LIMITED for more than
                the running minute has left; nothing is taken then.
        """
        self.give_back()
        book, now = self._budgeting.book, self._budgeting.clock.monotonic()
        try:
            self._charge = book.admit(self._principal, tokens, now, param)
        except LmxError as error:
            raise self._refused(error) from None

    def give_back(self) -> None:
        """The request will not run: what it took is free again. Idempotent."""
        if self._charge is not None:
            self._budgeting.book.refund(self._charge, self._budgeting.clock.monotonic())
            self._charge = None

    def _refused(self, error: LmxError) -> LmxError:
        self._budgeting.telemetry.count("admission_rejections_total", reason=error.code)
        return error
