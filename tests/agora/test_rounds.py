"""The rounds of Agora by hand: pruning, repeated rounds, and the published bounds."""

import math

from bort.agora.rounds import (
    Theta,
    count_planned_steps,
    drop_like_worst,
    keep_better_half,
    list_thetas,
    play_rounds,
)
from bort.config.agora import ThetaConfig


def play(scores: dict, grid: int, **options) -> list:
    """Rounds of a trainer whose scores are known: {(round, replay): scores of its θs}."""
    log = []

    def train(number, replay, thetas, data):
        log.append((number, replay, [t.seed for t in thetas], data))
        return scores[number, replay]

    def grow(before, number, replay):
        return f"{before.data}+{number}.{replay}"

    found = list(play_rounds([Theta(seed=k) for k in range(grid)], "D", train, grow, **options))
    return [log, [(r.number, r.replay, r.thetas[r.best].seed, r.score) for r in found]]


def test_a_toy_by_hand():
    """Four θs, halved; round 2 is worse than round 1 and replayed; round 3 ends it."""
    scores = {
        (1, 0): [0.5, 0.7, 0.6, 0.1],  # 1 and 2 stay
        (2, 0): [0.6, 0.65],  # θ 1, θ 2: worse than 0.7
        (2, 1): [0.8, 0.75],  # better: this one counts, θ 1 stays
        (3, 0): [0.9],
    }
    log, found = play(scores, 4, replays=1)
    assert log == [
        (1, 0, [0, 1, 2, 3], "D"),
        (2, 0, [1, 2], "D+2.0"),
        (2, 1, [1, 2], "D+2.1"),
        (3, 0, [1], "D+2.1+3.0"),
    ]
    assert found == [(1, 0, 1, 0.7), (2, 1, 1, 0.8), (3, 0, 1, 0.9)]


def test_replays_are_limited_over_all_rounds_and_never_make_it_worse():
    scores = {
        (1, 0): [0.9, 0.1, 0.2],
        (2, 0): [0.5, 0.6],
        (2, 1): [0.4, 0.3],  # worse than the first attempt, which therefore counts
        (2, 2): [0.7, 0.5],
        (3, 0): [0.1],  # no replay is left
    }
    log, found = play(scores, 3, replays=2)
    assert [entry[:2] for entry in log] == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0)]
    assert found == [(1, 0, 0, 0.9), (2, 2, 0, 0.7), (3, 0, 0, 0.1)]
    # D of round 2's attempts is made from round 1 each time, that of round 3 from the best of them
    assert [entry[3] for entry in log] == ["D", "D+2.0", "D+2.1", "D+2.2", "D+2.2+3.0"]


def test_rounds_end():
    scores = {(1, 0): [0.5, 0.7], (2, 0): [0.7]}
    assert len(play(scores, 2, limit=1)[1]) == 1
    assert len(play(scores, 2)[1]) == 2
    train = iter([[0.5, 0.7]])
    found = list(
        play_rounds([Theta(seed=0), Theta(seed=1)], "D", lambda *_: next(train), lambda *_: None)
    )
    assert len(found) == 1  # no mistakes, so no further round
    assert play({(1, 0): [-math.inf, 0.2], (2, 0): [0.3]}, 2)[1][1] == (2, 0, 1, 0.3)


def test_the_published_bounds():
    """480 sets: 960 trainings by halving; the original drops one at least: 480 · 481 / 2."""
    published = ThetaConfig(
        lr=[1e-4, 1e-5, 9e-6],
        seed=[0, 1, 2, 3, 4],
        weight_decay=[0, 10, 100, 350],
        warmup=[0.35, 0.4, 0.45, 0.5],
        batch_size=[8, 16],
    )
    grid = list_thetas(published)
    assert len(grid) == len(set(grid)) == 480
    for prune, most in ((keep_better_half, 960), (drop_like_worst, 115_440)):
        count, thetas = 0, grid
        while thetas:
            count += len(thetas)
            kept = prune(thetas)
            assert len(kept) < len(thetas) and kept[:1] in ([], thetas[:1])  # the best stays
            thetas = kept
        assert count <= most
    assert count > 480 and sum([480, 240, 120, 60, 30, 15, 8, 4, 2, 1]) == 960


def test_pruning_by_the_longest_common_sequence():
    """The worst shares (seed 0, batch 8) with the third: whatever has both goes, the best stays."""
    ordered = [
        Theta(lr=1e-3, seed=0, batch_size=8),
        Theta(lr=1e-4, seed=1, batch_size=8),
        Theta(lr=1e-4, seed=0, batch_size=8),
        Theta(lr=1e-5, seed=1, batch_size=16),
        Theta(lr=1e-5, seed=0, batch_size=8),
    ]
    assert drop_like_worst(ordered) == [ordered[0], ordered[1], ordered[3]]
    alone = [Theta(seed=0), Theta(seed=1), Theta(seed=2)]  # nothing is shared: the worst alone
    assert drop_like_worst(alone) == alone[:2]
    assert (
        drop_like_worst(alone[:1]) == []
        and keep_better_half(alone) == alone[:2]
        and keep_better_half(alone[:1]) == []
    )


def test_points_and_their_names():
    found = list_thetas(ThetaConfig())
    assert [(p.lr_factor, p.seed) for p in found] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert str(found[3]) == "lr × 3, seed 1" and str(Theta()) == "the run's own"
    assert [(p.lr, p.lr_factor) for p in list_thetas(ThetaConfig(lr=[1e-3], seed=None))] == [
        (1e-3, 1.0)
    ]


def test_planned_steps_are_those_of_the_grid(run_of):
    """40 rows of D and 10 more a round; 4 θs, then 2, then 1, by hand."""
    words = ["data.batch_size=8", "trainer.max_epochs=2", "agora.samples=10"]
    own = run_of(*words, "agora.grid.seed=[0,1]", "agora.grid.lr_factor=[1,3]")
    rounds = [4 * 2 * 5, 2 * 2 * 7, 2 * 8]  # ⌈40/8⌉, ⌈50/8⌉ and ⌈60/8⌉ steps an epoch
    assert count_planned_steps(own, 40) == sum(rounds)
    grid = [*words, "agora.grid.lr_factor=[1]", "agora.grid.seed=null"]
    longer = run_of(*grid, "agora.grid.epochs=[3,5]", "agora.grid.batch_size=[4]")
    # ⌈40/4⌉ steps for 3 and for 5 epochs; then one θ of 4 epochs on average
    assert count_planned_steps(longer, 40) == 10 * (3 + 5) + 13 * 4
