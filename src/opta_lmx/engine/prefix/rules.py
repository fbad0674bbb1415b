"""What one model's prefix cache may hold, and what its entries cost."""

import msgspec


class CacheRules(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and costs of the prefix cache of one loaded model.

    Sizes are bytes, lengths are tokens, durations are seconds.

    `budget_bytes` bounds what is held in memory, and so does `bound_bytes` for now; `disk_bytes`
    the files (0: no files), `disk_rate` is the bytes per second a file is read at. `trimmable`
    says that a stored state serves any shorter prefix of itself; else (sliding windows, state
    spaces) it serves its own length only.
    `bytes_per_token` and `fixed_bytes` estimate the size of a state before it is known;
    `prefill_rate` is tokens per second of a prompt's beginning and `doubling` the position at
    which a token costs twice as much (0: never).

    `min_tokens` is the shortest prefix worth keeping and `min_gain` what a reuse or a checkpoint
    must add to the next shorter one; `lead_tokens` are worth waiting for another request's
    checkpoint. Inside messages longer than `stride`, checkpoints lie `first_step`, then `growth`
    times as far from the message's end, and never more than `stride` apart. One request keeps at
    most `max_keeps` states, and `request_share` of the budget. `tail_slack` is by how much a
    volatile last message may be longer than the one before it.

    Where a prompt stops for a checkpoint its next chunk is short and its state is copied: that
    costs as much as some hundred tokens. Where a conversation begins with a cached part, what
    follows stops inside its messages once, and once more for every `stop_every` tokens.

    Interest in an entry halves every `half_life_s`. A state is written to disk when it would take
    `spill_min_s` to compute and has lain unused for `spill_after_s`. `sessions` bounds the
    conversations whose last prompt is remembered, `follow_limit_s` how long a request waits for
    others in all.
    """

    budget_bytes: int
    bound_bytes: int | None = None
    trimmable: bool = True
    bytes_per_token: int = 0
    fixed_bytes: int = 0
    prefill_rate: float = 1000.0
    doubling: int = 0
    disk_bytes: int = 0
    disk_rate: float = 500e6
    min_tokens: int = 64
    min_gain: int = 32
    lead_tokens: int = 256
    first_step: int = 64
    growth: float = 1.5
    stride: int = 2048
    max_keeps: int = 32
    stop_every: int = 1024
    request_share: float = 0.5
    tail_slack: int = 8
    half_life_s: float = 600.0
    spill_min_s: float = 0.2
    spill_after_s: float = 30.0
    sessions: int = 256
    follow_limit_s: float = 120.0

    def size(self, tokens: int) -> int:
        """The bytes a state of `tokens` is expected to take."""
        return self.fixed_bytes + self.bytes_per_token * tokens

    def seconds(self, start: int, end: int) -> float:
        """The time to process the tokens from `start` to `end` of a prompt."""
        flat = max(0, end - start) / self.prefill_rate
        return flat * (1 + (start + end) / (2 * self.doubling)) if self.doubling else flat

    @property
    def request_bytes(self) -> int:
        """What one request may keep at most."""
        return int(self.budget_bytes * self.request_share)

    @property
    def limit_bytes(self) -> int:
        """What may be held in memory now."""
        budget, bound = self.budget_bytes, self.bound_bytes
        return budget if bound is None else min(budget, bound)

    @property
    def leaving_bytes(self) -> int:
        """The part of the memory budget that evicted states may use until they are on disk."""
        return self.budget_bytes // 8 if self.disk_bytes else 0

    @property
    def staying_bytes(self) -> int:
        """The rest of what may be held: for states that are meant to stay."""
        return self.limit_bytes - self.leaving_bytes
