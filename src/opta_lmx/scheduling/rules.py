"""The numbers that a waiting line is held to, and what it says of itself."""

import msgspec

from opta_lmx.core.principal import Lane


class LaneRule(msgspec.Struct, frozen=True):
    """How one class of requests is treated.

    Args:
        weight: its share of the model against the other lanes that want it.
        patience_s: a request that would wait longer may have a row paused for it, where the
            engine can pause rows (s; None: it never has).
        spare: slots that the lane alone may not fill; it always has one.
        max_running: most slots it may hold; None for no such bound.
    """

    weight: float
    patience_s: float | None = None
    spare: int = 0
    max_running: int | None = None


class Prices(msgspec.Struct, frozen=True):
    """What a token costs in service: of a prompt, of a prompt held in cache, of an answer."""

    prompt: float = 1.0
    cached: float = 0.1
    answer: float = 2.0


class Pausing(msgspec.Struct, frozen=True):
    """When a running row may be paused for somebody who waits.

    Args:
        slice_tokens: a row that has produced this many since it was let in makes room for one
            who holds no more slots than its owner; None: only for one who holds fewer.
        progress_tokens: a row that was paused before must first have produced this many.
        calm_s: a row is paused at most twice within this time (s).
    """

    slice_tokens: int | None = 256
    progress_tokens: int = 16
    calm_s: float = 2.0


class LineRules(msgspec.Struct, frozen=True):
    """The policy of one model's line.

    Args:
        max_waiting: places that all share; everybody with nothing waiting has one besides.
        key_places: most places that one key may fill (0: twice `max_waiting`).
        lanes: one rule for each `Lane`, in its order.
        prices: the cost of service.
        quantum: how far (in cost, at weight 1) the order may bend to a warm prefix.
        ageing_s: a lane that waits this long without a grant goes next (s).
        preemptible: the engine can pause a row and let it go on later.
        reserve: where it cannot, slots that one client, or one key of several, may not take.
        always_reserve: so too where it can, because a pause takes many steps to come about.
        several_keys: more than one key is in use (known anyway once two have asked).
        client_max_running: most slots one client may hold; None for no such bound.
        pausing: when rows are paused.
        idle_clients: clients of a key remembered while they ask for nothing.
    """

    max_waiting: int = 64
    key_places: int = 0
    lanes: tuple[LaneRule, ...] = (
        LaneRule(8.0, patience_s=0.05),
        LaneRule(4.0, patience_s=1.0),
        LaneRule(1.0, spare=1),
    )
    prices: Prices = Prices()
    quantum: float = 1024.0
    ageing_s: float = 30.0
    preemptible: bool = False
    reserve: int = 1
    always_reserve: bool = False
    several_keys: bool = False
    client_max_running: int | None = None
    pausing: Pausing = Pausing()
    idle_clients: int = 128

    def places_of_a_key(self) -> int:
        """Most places that one key may fill."""
        return self.key_places or max(1, 2 * self.max_waiting)


class Work(msgspec.Struct, frozen=True):
    """What a request asks of the model.

    Args:
        prompt: tokens of its prompt.
        cached: how many of these are in cache.
        most: most tokens of answer it may take; None when nothing bounds them.
        pausable: it can go on after having been paused.
    """

    prompt: int = 0
    cached: int = 0
    most: int | None = None
    pausable: bool = True

    def cost(self, prices: Prices) -> float:
        """What its prompt costs."""
        cached = min(self.cached, self.prompt)
        return prices.prompt * (self.prompt - cached) + prices.cached * cached


class Position(msgspec.Struct, frozen=True):
    """How many go before, and seconds until the turn; both are estimates."""

    ahead: int
    estimate_s: float


class Depth(msgspec.Struct, frozen=True):
    """What one client has in one lane; `oldest_s` is how long its oldest waits (s)."""

    lane: Lane
    tenant: str
    key: str
    client: str
    waiting: int
    running: int
    oldest_s: float
