"""Caches of one sequence: told apart, forked, cut, and taken apart for files."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    CacheList,
    ConcatenateKVCache,
    KVCache,
    RotatingKVCache,
)

from opta_lmx.backends.mlx.caches import (
    ability,
    covered,
    cut,
    describe,
    flatten,
    fork,
    form,
    from_bytes,
    settle,
    unflatten,
    view_bytes,
)

WINDOW = 16


def filled(cache: Any, tokens: int, seed: int = 0, dtype: Any = mx.float32) -> Any:
    """The cache after a prompt in two chunks and then one token at a time."""
    done = 0
    for size in (tokens // 3, tokens - tokens // 3 - 3, 1, 1, 1):
        new = mx.random.normal((1, 2, size, 4), key=mx.random.key(seed + done)).astype(dtype)
        cache.update_and_fetch(new, new + 1)
        done += size
    return cache


def arrays(tokens: int) -> ArraysCache:
    cache = ArraysCache(2)
    cache[0] = mx.full((1, 3, 5), tokens)
    cache[1] = mx.arange(7, dtype=mx.int32).reshape(1, 7)
    return cache


def mixed(tokens: int, dtype: Any = mx.float32) -> list[Any]:
    return [
        filled(KVCache(), tokens, dtype=dtype),
        filled(RotatingKVCache(WINDOW), tokens, 5, dtype),
        arrays(tokens),
        CacheList(filled(KVCache(), tokens, 7, dtype), arrays(tokens)),
    ]


def contents(caches: list[Any]) -> list[list[Any]]:
    flat = flatten(caches)[1]
    return [array.astype(mx.float32).tolist() for array in flat]


def test_abilities() -> None:
    window = RotatingKVCache(WINDOW)
    assert ability([KVCache(), KVCache()], 100) == "trimmable"
    assert ability([KVCache(), window], WINDOW - 1) == "trimmable"
    assert ability([KVCache(), window], WINDOW) == "whole"
    assert ability([KVCache(), ArraysCache(2)], 100) == "whole"
    assert ability([CacheList(KVCache(), KVCache())], 100) == "trimmable"
    assert ability([CacheList(KVCache(), ArraysCache(1))], 100) == "whole"
    assert ability([KVCache(), ConcatenateKVCache()], 100) == "none"
    assert ability([], 100) == "none"


@pytest.mark.parametrize("tokens", [9, 40, 300])
def test_a_fork_leaves_the_held_caches_as_they_are(tokens: int) -> None:
    held = [filled(KVCache(), tokens)]
    settle(held)
    before = contents(held)
    copied = fork(held, 4)
    assert copied is not None
    assert covered(copied) == tokens - 4
    filled(copied[0], 30, 9)
    settle(copied)
    assert contents(held) == before
    assert covered(held) == tokens
    assert covered(copied) == tokens - 4 + 30


def test_what_has_slid_cannot_be_cut() -> None:
    short, slid = [filled(RotatingKVCache(WINDOW), 12)], [filled(RotatingKVCache(WINDOW), 30)]
    assert fork(short, 3) is not None
    assert fork(slid, 1) is None
    assert fork(slid) is not None
    assert not cut([*short, arrays(3)], 1)
    assert covered(short) == 12
    assert cut(slid, 0)
    assert covered([arrays(3)]) is None


@pytest.mark.parametrize("tokens", [9, 12, 16, 17, 40, 300])
def test_settling_takes_only_what_is_needed_and_changes_nothing(tokens: int) -> None:
    caches = [filled(KVCache(), tokens), filled(RotatingKVCache(WINDOW), tokens, 5)]
    twin = [filled(KVCache(), tokens), filled(RotatingKVCache(WINDOW), tokens, 5)]
    size = settle(caches)
    assert size == (tokens + min(tokens, WINDOW)) * 2 * 2 * 4 * 4
    merged = [type(a).merge([a]) for a in caches]
    expected = [type(a).merge([a]) for a in twin]
    for one, other in zip(merged, expected, strict=True):
        assert mx.array_equal(one.keys, other.keys)
        assert mx.array_equal(one.values, other.values)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_caches_become_bytes_and_caches_again(dtype: Any) -> None:
    caches = mixed(40, dtype)
    settle(caches)
    structure, parts = flatten(caches)
    kinds = [describe(part) for part in parts]
    data = [bytes(view) for view in view_bytes(parts)]
    assert [len(each) for each in data] == [kind.nbytes for kind in kinds]
    again = [from_bytes(memoryview(each), of) for each, of in zip(data, kinds, strict=True)]
    restored = unflatten(structure, again)
    assert contents(restored) == contents(caches)
    assert form(restored) == form(caches) == form(settled(mixed(22, dtype)))
    assert form(restored) != form(caches[:2])
    assert covered(restored) == 40


def settled(caches: list[Any]) -> list[Any]:
    settle(caches)
    return caches


def test_forms_tell_models_apart() -> None:
    usual = form(settled(mixed(40)))
    assert form(settled(mixed(40, mx.float16))) != usual
    assert form([filled(RotatingKVCache(WINDOW), 9)]) != form([filled(RotatingKVCache(8), 9)])


def test_only_mlx_lms_own_caches_are_written() -> None:
    class Special(KVCache):
        pass

    for cache in (Special(), CacheList(filled(Special(), 9))):
        with pytest.raises(TypeError):
            flatten([cache])
    assert flatten([BatchKVCache([0])])
