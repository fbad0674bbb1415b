"""Ids of stored things."""

import re
import uuid

from opta_lmx.core.ids import uuid7


def test_an_id_is_a_version_7_uuid_of_its_time() -> None:
    made = uuid7(1_800_000_000_123)
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert int(made[:12], 16) == 1_800_000_000_123


def test_ids_sort_by_their_time_and_differ_within_it() -> None:
    ids = [uuid7(ms) for ms in range(1_000, 1_100)]
    assert ids == sorted(ids)
    assert len({uuid7(5) for _ in range(1000)}) == 1000
