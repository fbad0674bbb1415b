"""When a place comes free for a caller who has found none."""

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.forecast import Forecast, Scene
from opta_lmx.scheduling.order import Order
from opta_lmx.scheduling.places import Lack, Places
from opta_lmx.scheduling.retry import MAX_RETRY_S
from opta_lmx.scheduling.shares import Share

_LONGEST_S = 2 * MAX_RETRY_S
"""Whatever takes longer is told alike."""


class Openings:
    """Says when a place comes free, by as few estimates as that takes.

    The more have to leave, the longer it takes: so not each of the ways to a place can be the
    shortest.

    Args:
        order: who waits.
        places: who has which.
        forecast: when turns come.
    """

    def __init__(self, order: Order, places: Places, forecast: Forecast) -> None:
        self._order = order
        self._places = places
        self._forecast = forecast

    def next_s(self, caller: Caller, lack: Lack, before: int, paused: int, scene: Scene) -> float:
        """Seconds until a caller has the places it needs.

        Args:
            caller: who.
            lack: how many must leave theirs.
            before: places that its client has, or has been promised, already.
            paused: tickets of all that wait again; they have their turns, and leave no place.
            scene: when.
        """
        client = self._places.client(caller)
        assert client.owner is not None
        key, of_key = self._forecast.key(caller), client.owner.paused
        if lack.own <= 0 and not before:
            return 0.0
        # Another key fills its part again: who leaves it leaves no shared place.
        shared = lack.shared + self._places.refilled(caller)
        shared_s = self._turns_s(caller, self._forecast.lanes(), shared, paused, scene)
        if 0 < lack.own >= lack.part:
            return min(shared_s, self._turns_s(caller, key, lack.part, of_key, scene))
        own_s = self._turns_s(caller, key, lack.own, of_key, scene) if lack.own > 0 else 0.0
        if not before or own_s >= shared_s:
            return min(shared_s, own_s)
        known = [self._order.known(caller)]
        client_s = self._turns_s(caller, known, before, client.paused, scene)
        if client_s <= own_s:
            return own_s
        part_s = self._turns_s(caller, key, lack.part, of_key, scene)
        return min(shared_s, client_s, part_s)

    def _turns_s(
        self, caller: Caller, counters: list[Share], leave: int, paused: int, scene: Scene
    ) -> float:
        turns = max(1, leave) + paused
        return min(_LONGEST_S, self._forecast.turns_s(caller, counters, turns, scene))
