"""The last layer's call of attention is known, and a pass broken off does no harm."""

from opta_lmx.backends.mlx.cpu.forwards import Forwards


def run(forwards: Forwards, layers: int) -> list[bool]:
    ends: list[bool] = []
    for _ in range(layers):
        forwards.attend()
        ends.append(forwards.at_end)
    return ends


def test_the_last_call_of_each_pass() -> None:
    forwards = Forwards()
    assert run(forwards, 3) == [False, False, False]
    forwards.learn(lambda: run(forwards, 3), 3)
    for _ in range(2):
        assert run(forwards, 3) == [False, False, True]
    assert forwards.at_end


def test_a_pass_that_was_broken_off() -> None:
    forwards = Forwards()
    forwards.learn(lambda: run(forwards, 3), 3)
    run(forwards, 2)
    forwards.begin()
    assert run(forwards, 3) == [False, False, True]


def test_layers_that_share_the_last_cache_are_not_read() -> None:
    forwards = Forwards()
    forwards.learn(lambda: run(forwards, 5), 3)
    for _ in range(2):
        assert run(forwards, 5) == [False, False, True, True, True]


def test_caches_of_other_kinds_do_not_count() -> None:
    forwards = Forwards()
    forwards.learn(lambda: run(forwards, 2), 6)
    assert run(forwards, 2) == [False, True]


def test_a_model_without_attention() -> None:
    forwards = Forwards()
    forwards.learn(lambda: None, 1)
    assert not forwards.at_end
    assert run(forwards, 2) == [False, False]
