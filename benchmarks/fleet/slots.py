"""What a server says of the waits for its slots, and of its own steps meanwhile."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from benchmarks.stats import median, percentile

EVENT = "slot granted"


class SlotGrant(msgspec.Struct, frozen=True):
    """One line of the server's log: who was given a slot after which wait (all times in ms).

    The steps are those of late: the ones that only decoded, and the ones with a piece of prompt.
    """

    client: str
    waited_ms: float
    decode_step_ms: float
    prefill_step_ms: float

    @property
    def steps_ms(self) -> float:
        """One decode step and one chunk of prompt; steps with a chunk decode as well."""
        return max(self.decode_step_ms, self.prefill_step_ms)


class Waits(msgspec.Struct, frozen=True):
    """Waits for a slot (ms) beside one decode step and one chunk of prompt at that time."""

    count: int
    p50_ms: float
    most_ms: float
    steps_ms: float

    @property
    def good(self) -> bool:
        """True when half of them or more were no longer than that."""
        return self.p50_ms <= self.steps_ms


def waits(grants: Iterable[SlotGrant]) -> Waits:
    """Sum up the waits of some clients."""
    found = list(grants)
    waited = [one.waited_ms for one in found]
    steps = median(one.steps_ms for one in found)
    return Waits(len(found), median(waited), percentile(waited, 100), steps)


class _Line(msgspec.Struct, frozen=True):
    event: str = ""
    client: str = ""
    waited_ms: float = 0.0
    decode_step_ms: float = 0.0
    prefill_step_ms: float = 0.0


def read_grants(log: Path, wanted: Callable[[str], bool]) -> list[SlotGrant]:
    """The slots granted to clients that are `wanted`, in order; other lines are passed over."""
    found: list[SlotGrant] = []
    for text in log.read_bytes().splitlines():
        if EVENT.encode() not in text:
            continue
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.DecodeError:
            continue  # Cut off, or something else that speaks of slots.
        if line.event == EVENT and wanted(line.client):
            steps = line.decode_step_ms, line.prefill_step_ms
            found.append(SlotGrant(line.client, line.waited_ms, *steps))
    return found
