"""Calls timed in turns."""

import time

from bort.models.arch import Arch
from bort.objectives.timing import make_pytorch_call, time_interleaved


def test_each_round_times_every_one_in_every_round():
    made, called = [], []

    def make(key, seconds):
        def build_it():
            made.append(key)
            return lambda: (called.append(key), time.sleep(seconds))

        return build_it

    ticks = []
    found = time_interleaved(
        {"fast": make("fast", 0.001), "slow": make("slow", 0.01)},
        rounds=3,
        seconds=0.0,
        tick=lambda done, total: ticks.append((done, total)),
    )
    assert made == ["fast", "slow", "slow", "fast", "fast", "slow"]  # turned order
    assert called.count("slow") == 3 * 5  # two to warm up, three that count
    assert ticks[-1] == (6, 6)
    assert 1 <= found["fast"].low <= found["fast"].ms <= found["fast"].high < 10
    assert 10 <= found["slow"].ms < 40


def test_a_larger_encoder_is_slower():
    archs = [Arch(1, 1, 32, 32), Arch(4, 4, 256, 1024)]
    make = {a: lambda a=a: make_pytorch_call(a, 100, 1, 32) for a in archs}
    found = time_interleaved(make, rounds=3, seconds=0.01)
    assert 2 * found[archs[0]].ms < found[archs[1]].ms
