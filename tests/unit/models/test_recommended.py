"""The catalogue of models worth having is sound."""

import msgspec

from opta_lmx.models.puller import stored_as
from opta_lmx.models.recommended import best_for, recommended
from opta_lmx.models.starters import STARTERS


def test_every_entry_can_be_asked_for() -> None:
    models = recommended()
    assert len({one.ref for one in models}) == len(models)
    for one in models:
        assert stored_as(one.ref)
        assert one.context > 0
        assert one.licence
        assert one.memory_bytes > one.size_bytes > 0
        assert all(msgspec.structs.asdict(one.sources).values())
        if "/" in one.ref and one.format == "gguf":
            org, repo, *_ = one.ref.split("/")
            assert f"{org}/{repo}" in one.sources.size
        if one.ref in STARTERS:
            assert one.format == ("mlx" if STARTERS[one.ref].folder else "gguf")
            assert one.licence == STARTERS[one.ref].licence.lower()
        if one.ref == "starter":
            assert (one.size_bytes, one.context) == (STARTERS["starter"].size, 8192)


def test_a_single_file_is_named_where_its_quantisation_is() -> None:
    for one in recommended():
        if one.ref not in STARTERS and one.format == "gguf":
            assert one.ref.endswith(f"{one.quantisation}.gguf")


def test_the_best_is_the_largest_that_makes_text_and_fits() -> None:
    assert best_for(0) is None
    sizes = []
    for room in (200_000_000, 3_000_000_000, 9_000_000_000, 64_000_000_000):
        best = best_for(room)
        assert best is not None
        assert best.kind == "chat"
        assert best.memory_bytes <= room
        sizes.append(best.size_bytes)
    assert sizes == sorted(set(sizes))
