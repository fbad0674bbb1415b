"""What a simulated model plays: its ways, its times and its faults."""

import msgspec

from opta_lmx.backends.frames import CacheAbility, ResumeAbility


class SimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Load.options`; zero or absent turns a fault off.

    Ways: `reply` is one token a word; with `exact` every blank of it is kept and none added at
    its end; with `by_bytes` each byte is a token. `echo_sampling` makes the reply the sampling
    as JSON, `echo_submit` the whole `Submit`. `thinking`: prompts end inside a block of
    reasoning. `lacks` are features the engine denies; `infill` says that a `suffix` is taken.
    `resumes`, `pauses`, `caches` and `weights_bytes` are as in `Ready`; a token in a row or a
    held state takes `kv_bytes`, of `kv_budget` for all (0: no bound).

    Times: `step_ms`, `prefill_ms_per_token`, `load_ms`, `prepare_ms`; steps from `slow_from` to
    before `slow_to` take `slow_by` times as long. `chunk` tokens of prompts are processed in a
    step at most (0: all there are). Workers of one `device` (a file) compute one at a time.

    Faults: `die_at_step`, `hang_at_step`, `raise_at_step` are of the whole worker; at
    `fault_at_step` the oldest row alone fails; with `die_on` the worker dies of any prompt that
    holds this text, once it has said `die_after` tokens; with `die_preparing` of preparing one
    that holds it. `raise_words` is what the exception says.
    `fail_load`, `hang_template`.
    """

    reply: str = "one two three four"
    exact: bool = False
    by_bytes: bool = False
    echo_sampling: bool = False
    echo_submit: bool = False
    thinking: bool = False
    tool_dialect: str = "hermes"
    reasoning: str = ""
    lacks: tuple[str, ...] = ()
    infill: bool = False
    resumes: ResumeAbility = "none"
    pauses: bool = False
    caches: CacheAbility = "none"
    kv_bytes: int = 1000
    kv_budget: int = 0
    weights_bytes: int = 0
    step_ms: float = 0.0
    prefill_ms_per_token: float = 0.0
    load_ms: float = 0.0
    prepare_ms: float = 0.0
    slow_from: int = 0
    slow_to: int = 0
    slow_by: float = 4.0
    chunk: int = 0
    device: str = ""
    die_at_step: int = 0
    die_on: str = ""
    die_after: int = 0
    die_preparing: str = ""
    hang_at_step: int = 0
    raise_at_step: int = 0
    raise_words: str = "scripted step failure"
    fault_at_step: int = 0
    fail_load: str = ""
    hang_template: bool = False

    def slowness(self, step: int) -> float:
        """How many times longer than usual this step takes."""
        return self.slow_by if self.slow_from <= step < self.slow_to else 1.0
