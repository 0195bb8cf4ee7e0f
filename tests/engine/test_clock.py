import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.engine.clock import SystemClock

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
WALL_NS = 1_790_000_000 * SECOND_NS


class World:
    """A wall clock that can be set, over a monotonic one; the clock is read every second."""

    def __init__(self) -> None:
        self.passed_ns = 0
        self.step_ns = 0
        self.clock = SystemClock(
            lambda: WALL_NS + self.passed_ns + self.step_ns, lambda: 77 + self.passed_ns
        )
        self.last = self.clock.now_ms()

    @property
    def error_ms(self) -> int:
        return self.last - (WALL_NS + self.passed_ns + self.step_ns) // 1_000_000

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.passed_ns += SECOND_NS
            now = self.clock.now_ms()
            assert now >= self.last
            self.last = now


def test_it_is_wall_time() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time_ns() // 1_000_000) < 1_000


def test_small_steps_are_followed_smoothly_either_way() -> None:
    for step_ns in (2 * SECOND_NS, -2 * SECOND_NS):
        world = World()
        world.run(5)
        world.step_ns = step_ns
        before = world.last
        world.run(10)
        assert abs(world.last - before - 10_000) < 600, "at most 5 % faster or slower"
        world.run(600)
        assert abs(world.error_ms) <= 20


@pytest.mark.fault("T4")
def test_a_step_back_of_ten_minutes_is_doubted_then_made_good() -> None:
    world = World()
    world.run(3)
    world.step_ns = -10 * MINUTE_NS
    world.run(60)
    assert world.error_ms == 600_000, "not followed yet"
    world.run(5 * 3_600)
    assert abs(world.error_ms) <= 50


def test_a_jump_of_forty_days_is_not_followed_at_once() -> None:
    world = World()
    world.run(3)
    world.step_ns = 40 * 24 * 60 * MINUTE_NS
    world.run(14 * 60)
    assert world.error_ms == -40 * 24 * 3_600_000
    world.step_ns = 0
    world.run(3)
    assert world.error_ms == 0, "it was a mistake, and did no harm"
    world.step_ns = 40 * 24 * 60 * MINUTE_NS
    world.run(16 * 60)
    assert world.error_ms == 0, "it has stood for a quarter of an hour"


@given(st.lists(st.tuples(st.integers(-900, 900), st.integers(0, 4_000)), min_size=1, max_size=30))
def test_it_never_goes_back_and_a_rate_never_runs_on(moves: list[tuple[int, int]]) -> None:
    """The wall is set by so many seconds; then nobody reads the clock for so many seconds."""
    world = World()
    for step, pause in moves:
        world.step_ns += step * SECOND_NS
        expected = world.error_ms
        world.passed_ns += pause * SECOND_NS
        world.run(1)
        assert world.error_ms == 0 or abs(world.error_ms - expected) <= 51


def test_threads_may_read_it_together() -> None:
    clock = SystemClock()
    wrong: list[int] = []

    def read() -> None:
        last = 0
        for _ in range(20_000):
            now = clock.now_ms()
            if now < last:
                wrong.append(now)
            last = now

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
