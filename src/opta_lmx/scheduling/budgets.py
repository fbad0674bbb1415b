"""What a key may use in tokens: a prompt, all prompts of any 60 s, and one answer."""

import math
from bisect import bisect_left
from collections import OrderedDict, deque

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Budgets, Principal

WINDOW_S = 60.0
MAX_ENTRIES = 4096
"""Moments remembered of one key; a busier minute is remembered in pairs, and for longer."""


class Charge(msgspec.Struct):
    """Prompt tokens that were admitted at a time (s); 0 tokens once they were given back."""

    owner: tuple[str, str]
    tokens: int
    at: float


class BudgetState(msgspec.Struct, frozen=True):
    """A key's budget of one minute: tokens in all and left, and seconds until all are free."""

    limit: int
    remaining: int
    reset_s: float


class TokenWindow:
    """Tokens admitted in the last 60 s. What was admitted at `t` counts until before `t + 60`.

    Up to `MAX_ENTRIES` moments the count is exact; beyond, neighbours are taken together as of
    the later one, so that tokens are freed too late rather than too early.
    """

    def __init__(self) -> None:
        self._entries: deque[Charge] = deque()
        self.used = 0

    def expire(self, now: float) -> None:
        """Forget what has left the window."""
        while self._entries and self._entries[0].at + WINDOW_S <= now:
            self.used -= self._entries.popleft().tokens

    def add(self, owner: tuple[str, str], tokens: int, now: float) -> Charge:
        """Count tokens from now on."""
        self.used += tokens
        if self._entries and self._entries[-1].at == now:
            self._entries[-1].tokens += tokens
        else:
            if len(self._entries) >= MAX_ENTRIES:
                self._halve()
            self._entries.append(Charge(owner, tokens, now))
        return Charge(owner, tokens, now)

    def remove(self, charge: Charge, now: float) -> None:
        """Take tokens back that were counted, unless they have left the window since."""
        self.expire(now)
        place = bisect_left(self._entries, charge.at, key=lambda entry: entry.at)
        if place < len(self._entries) and charge.at + WINDOW_S > now:
            self._entries[place].tokens -= charge.tokens
            self.used -= charge.tokens

    def frees(self, tokens: int, now: float) -> float:
        """Seconds until at least this many of the tokens in use have left the window."""
        freed = 0
        for entry in self._entries:
            freed += entry.tokens
            if freed >= tokens:
                return max(0.0, entry.at + WINDOW_S - now)
        return WINDOW_S

    def _halve(self) -> None:
        """Merge neighbours, each pair as of its later moment."""
        entries = list(self._entries)
        for earlier, later in zip(entries[::2], entries[1::2], strict=False):
            later.tokens += earlier.tokens
        odd = entries[-1:] if len(entries) % 2 else []
        self._entries = deque([*entries[1::2], *odd])


class BudgetBook:
    """The prompt budgets of all keys. A key that was idle for 60 s takes no memory.

    The limits come with each request, so a changed configuration holds at once, also for what
    was admitted before.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], TokenWindow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def admit(self, principal: Principal, tokens: int, now: float, param: str) -> Charge:
        """Take a request's prompt tokens from its key's budgets, or refuse it.

        Args:
            principal: whose budgets.
            tokens: exact length of the prompt; of all prompts, where a request has several.
            now: monotonic seconds.
            param: the request field that holds the prompt.

        Raises:
            LmxError: INVALID_REQUEST `prompt_budget_exceeded` for a prompt that can never pass;
                RATE_LIMITED `token_rate_exceeded` with the time at which it would.
        """
        budgets, owner = principal.budgets, (principal.tenant, principal.key)
        _check_size(budgets, tokens, param)
        self._sweep(now)
        limit = budgets.prompt_tokens_per_minute
        if limit is None or tokens == 0:
            return Charge(owner, 0, now)
        window = self._windows.get(owner) or TokenWindow()
        window.expire(now)
        excess = window.used + tokens - limit
        if excess > 0:
            raise _too_fast(tokens, window.used, limit, window.frees(excess, now))
        self._windows[owner] = window
        self._windows.move_to_end(owner)
        return window.add(owner, tokens, now)

    def refund(self, charge: Charge, now: float) -> None:
        """Give back what a request took that was refused later. Idempotent."""
        window = self._windows.get(charge.owner)
        if window is not None and charge.tokens:
            window.remove(charge, now)
        charge.tokens = 0

    def state(self, principal: Principal, now: float) -> BudgetState | None:
        """The key's minute as it stands; None where no limit is set."""
        limit = principal.budgets.prompt_tokens_per_minute
        if limit is None:
            return None
        window = self._windows.get((principal.tenant, principal.key)) or TokenWindow()
        window.expire(now)
        reset_s = window.frees(window.used, now) if window.used else 0.0
        return BudgetState(limit, max(0, limit - window.used), reset_s)

    def _sweep(self, now: float) -> None:
        """Forget keys without anything in their window; the longest idle ones are in front."""
        while self._windows:
            owner, window = next(iter(self._windows.items()))
            window.expire(now)
            if window.used:
                return
            del self._windows[owner]


def answer_limit(
    budgets: Budgets, asked: int | None, default: int | None, param: str
) -> int | None:
    """Tokens an answer may have by its key's cap: None where nothing bounds it.

    Args:
        budgets: the key's.
        asked: what the request asks for; a silent one (None) gets the cap.
        default: the server's own default for silent requests.
        param: the request field that asks.

    Raises:
        LmxError: INVALID_REQUEST `answer_budget_exceeded` where more than the cap is asked for.
    """
    cap = budgets.max_tokens
    if asked is None:
        bounds = [bound for bound in (cap, default) if bound is not None]
        return min(bounds, default=None)
    if cap is not None and asked > cap:
        raise invalid(
            f"The request asks for an answer of {asked} tokens; this key allows {cap}.",
            param=param,
            code="answer_budget_exceeded",
        )
    return asked


def _check_size(budgets: Budgets, tokens: int, param: str) -> None:
    """Refuse a prompt that no wait would help."""
    bounds = (
        (budgets.prompt_tokens, "a request"),
        (budgets.prompt_tokens_per_minute, "a minute"),
    )
    for limit, per in bounds:
        if limit is not None and tokens > limit:
            raise invalid(
                f"The prompt has {tokens} tokens; this key allows {limit} {per}.",
                param=param,
                code="prompt_budget_exceeded",
            )


def _too_fast(tokens: int, used: int, limit: int, wait_s: float) -> LmxError:
    # Up to the next millisecond: a retry must not come a rounding error too early.
    wait_s = math.ceil(wait_s * 1000) / 1000
    return LmxError(
        ErrorKind.RATE_LIMITED,
        f"The prompt has {tokens} tokens; this key allows {limit} a minute and has used {used} "
        f"in the last {WINDOW_S:g} s. Retry in {math.ceil(wait_s)} s.",
        code="token_rate_exceeded",
        retry_after=wait_s,
    )
