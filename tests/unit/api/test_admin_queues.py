"""What `/admin/queue` and the gauges say of a line: every view sums up to the same."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.admin.queues import LANES, by_lane, line_json, totals
from opta_lmx.core.principal import Lane
from opta_lmx.scheduling.rules import Depth

NAMES = st.sampled_from(["a", "b"])
DEPTHS = st.lists(
    st.builds(
        Depth,
        lane=st.sampled_from(Lane),
        tenant=NAMES,
        key=NAMES,
        client=NAMES,
        waiting=st.integers(0, 9),
        running=st.integers(0, 9),
        oldest_s=st.floats(0, 1000),
    ),
    unique_by=lambda one: (one.lane, one.tenant, one.key, one.client),
)


@given(DEPTHS)
def test_every_view_sums_up_to_the_whole(depths: list[Depth]) -> None:
    told = line_json(depths)
    for view in ("lanes", "keys", "clients"):
        rows: list[dict[str, Any]] = told[view]
        for count in ("waiting", "running"):
            assert sum(row[count] for row in rows) == told[count]
        assert max((row["oldest_s"] for row in rows), default=0.0) == told["oldest_s"]
    assert len(told["clients"]) == len(depths)
    assert len(told["keys"]) == len({(one.tenant, one.key) for one in depths})


@given(DEPTHS)
def test_every_lane_is_told_and_no_other(depths: list[Depth]) -> None:
    lanes = by_lane(depths)
    assert tuple(lanes) == LANES == ("interactive", "agent", "background")
    for lane in Lane:
        own = [one for one in depths if one.lane is lane]
        assert lanes[LANES[lane]] == totals(own)


def test_an_empty_line() -> None:
    told = line_json(())
    assert (told["waiting"], told["running"], told["oldest_s"]) == (0, 0, 0.0)
    assert (told["keys"], told["clients"]) == ([], [])
    assert [row["lane"] for row in told["lanes"]] == list(LANES)
