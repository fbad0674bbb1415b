"""What states take and prompts cost, measured as they come."""

_WEIGHT = 0.3
_LEAST = 64
"""Tokens that are too few to measure anything by."""


class Costs:
    """Bytes and seconds of states, from those seen so far."""

    def __init__(self) -> None:
        self._shortest = (0, 0)
        self._longest = (0, 0)
        self.prefill_rate: float | None = None

    def state(self, tokens: int, size: int) -> None:
        """A state of so many tokens takes so many bytes."""
        if tokens >= self._longest[0]:
            self._longest = (tokens, size)
        if tokens <= self._shortest[0] or not self._shortest[0]:
            self._shortest = (tokens, size)

    @property
    def per_token(self) -> int:
        """Bytes that each further token takes."""
        (short, small), (long, large) = self._shortest, self._longest
        if long > short:
            return max(0, large - small) // (long - short)
        return large // long if long else 0

    @property
    def fixed(self) -> int:
        """Bytes of a state, whatever its length."""
        tokens, size = self._longest
        return max(0, size - self.per_token * tokens)

    def prefill(self, tokens: int, seconds: float) -> None:
        """So many tokens of a prompt have taken so long."""
        if tokens < _LEAST or seconds <= 0:
            return
        rate, known = tokens / seconds, self.prefill_rate
        self.prefill_rate = rate if known is None else known + _WEIGHT * (rate - known)
