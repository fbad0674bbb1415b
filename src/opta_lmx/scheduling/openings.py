"""When a place comes free for a caller who has found none."""

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.forecast import Forecast, Scene
from opta_lmx.scheduling.order import Order
from opta_lmx.scheduling.places import Lack, Places
from opta_lmx.scheduling.promises import Before
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

    def next_s(
        self, caller: Caller, lack: Lack, before: Before, paused: int, scene: Scene
    ) -> float:
        """Seconds until a caller has the places it needs.

        Args:
            caller: who.
            lack: how many must leave theirs.
            before: what others, and its client, have been promised already.
            paused: tickets of all that wait again; they have their turns, and leave no place.
            scene: when.
        """
        client, away, now = self._places.client(caller), before.away, scene.now
        owner = client.owner
        assert owner is not None
        key, of_key, mine = self._forecast.key(caller), owner.paused, client.waiting + before.client
        if lack.own <= 0 and not mine:
            return 0.0

        def part(leave: int) -> float:
            found_s = self._turns_s(caller, key, leave, of_key, scene)
            return max(found_s, away.key_at(leave - owner.waiting) - now)

        # Another key fills its part again: who leaves it leaves no shared place.
        shared = lack.shared + self._places.refilled(caller)
        shared_s = self._turns_s(caller, self._forecast.lanes(), shared, paused, scene)
        shared_s = max(shared_s, away.all_at(lack.shared - self._places.waiting) - now)
        if 0 < lack.own >= lack.part:
            return min(shared_s, part(lack.part))
        own_s = part(lack.own) if lack.own > 0 else 0.0
        if not mine or own_s >= shared_s:
            return min(shared_s, own_s)
        known = [self._order.known(caller)]
        client_s = self._turns_s(caller, known, mine, client.paused, scene)
        client_s = max(client_s, away.client_at() - now)
        if client_s <= own_s:
            return own_s
        return min(shared_s, client_s, part(lack.part))

    def _turns_s(
        self, caller: Caller, counters: list[Share], leave: int, paused: int, scene: Scene
    ) -> float:
        turns = max(1, leave) + paused
        return min(_LONGEST_S, self._forecast.turns_s(caller, counters, turns, scene))
