"""Which running row makes room for somebody who waits."""

from collections.abc import Callable, Iterable

from opta_lmx.core.principal import Lane
from opta_lmx.scheduling.rules import LineRules
from opta_lmx.scheduling.shares import Share
from opta_lmx.scheduling.tickets import Phase, Ticket

_MOST_STOPS = 32
"""Times in a row that a row is stopped before it has got on, where that is kept."""


def rows_to_pause(
    waiting: Ticket, rows: Iterable[Ticket], rules: LineRules, now: float
) -> list[Ticket]:
    """The rows that should yield to a ticket, the newest of whom is furthest above its share first.

    Args:
        waiting: who would get the slot.
        rows: who holds slots.
        rules: the policy.
        now: the time (s).
    """
    able = [row for row in rows if _may_pause(row, rules, now) and _owes(row, waiting, rules)]
    return sorted(able, key=_excess, reverse=True)


def stop_rows(
    lane: Lane, rows: Iterable[Ticket], rules: LineRules, keeps: Callable[[int], bool]
) -> list[Ticket]:
    """Ask the rows of a lane to yield, for whoever else uses the device; return who was asked.

    One that was stopped before must first have got on, unless what it has computed is kept
    (`keeps`): else a long prompt, begun again and again, would never end.
    """
    if not rules.preemptible:
        return []
    enough = rules.pausing.progress_tokens
    asked: list[Ticket] = []
    for row in rows:
        if row.caller.lane is not lane or row.phase is not Phase.RUNNING or not row.work.pausable:
            continue
        got_on = not row.stops or row.stint >= enough
        if got_on or (row.stops < _MOST_STOPS and keeps(row.number)):
            row.stops = 1 if got_on else row.stops + 1
            row.ask_to_yield()
            asked.append(row)
    return asked


def _may_pause(row: Ticket, rules: LineRules, now: float) -> bool:
    if row.phase is not Phase.RUNNING or row.aged or not row.work.pausable:
        return False
    if not row.paused_at:
        return True
    often = len(row.paused_at) > 1 and now - row.paused_at[0] < rules.pausing.calm_s
    return not often and row.stint >= rules.pausing.progress_tokens


def _owes(row: Ticket, waiting: Ticket, rules: LineRules) -> bool:
    """True when the slot would be in better hands: a lower lane's, or of one who has more."""
    if row.tally is waiting.tally:
        return False
    mine, its = _apart(waiting.share, row.share)
    if mine is its or mine.used > its.used + rules.quantum / its.weight:
        return False
    if mine is waiting.share.path[0]:
        return row.caller.lane > waiting.caller.lane
    then, now = (mine.claims + 1) / mine.weight, its.claims / its.weight
    if then < now:
        return True
    enough = rules.pausing.slice_tokens
    return enough is not None and row.stint >= enough and then <= now and mine.used <= its.used


def _apart(one: Share, other: Share) -> tuple[Share, Share]:
    """Where two clients part: the first counters on their paths that differ."""
    for mine, its in zip(one.path, other.path, strict=True):
        if mine is not its:
            return mine, its
    return one, other


def _excess(row: Ticket) -> tuple[float, ...]:
    """Order of rows: lower lanes first, then who holds most for its weight, then the newest."""
    held = (share.claims / share.weight for share in row.share.path[1:])
    return (float(row.caller.lane), *held, float(row.granted))
