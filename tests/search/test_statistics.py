"""The bootstrap against σ / √n; ties, controls and horizons against values by hand."""

from dataclasses import replace

import numpy as np
import pytest

from bort.models.arch import Arch
from bort.search import sweep as search
from bort.search.fptas import UNDECIDED, Scale, Selection
from bort.search.statistics import (
    Paired,
    choose_by_controls,
    compare_horizons,
    describe_border,
    find_ties,
)
from bort.trials.plan import GridPoint, MaximumPoint, Origin, SearchPlan, read_plan
from bort.trials.records import Job, TrialRecord, TrialStatus, read_records


def test_bootstrap_of_the_mean(tmp_path, search_of):
    """Documents of one position each: the standard error is σ / √n."""
    (tmp_path / "teacher").mkdir()
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=400)
    np.save(tmp_path / "teacher" / "documents.npy", np.arange(400))
    paired = Paired(tmp_path, [], search_of(), count=4000)
    means = paired.resample_losses(losses)
    assert means.mean() == pytest.approx(losses.mean(), abs=0.01)
    assert means.std() == pytest.approx(losses.std() / 20, rel=0.06)
    # of whole documents: what is equal within each varies as 40 values, not as 400
    np.save(tmp_path / "teacher" / "documents.npy", np.repeat(np.arange(40), 10) * 3)
    paired = Paired(tmp_path, [], search_of(), count=4000)
    each = np.repeat(losses[:40], 10)
    assert paired.resample_losses(each).std() == pytest.approx(
        losses[:40].std() / 40**0.5, rel=0.06
    )


def test_noise_in_latency_makes_ties(done):
    run, folder, _, _, _ = done
    plan = read_plan(folder)
    paired = Paired(folder, read_records(folder), run)
    by_w = replace(run, search=replace(run.search, exponents=[1, 1, 1]))
    choices = [search.build_selection(plan, aim, paired.records, paired) for aim in (by_w, run)]
    calm = [set(find_ties(plan, paired, chosen, seeds=0.0)) for chosen in choices]
    values = [(point, point.latency[0]) for point in plan.points]
    points = [replace(point, latency=[v, 0.2 * v, 3 * v]) for point, v in values]
    plan = replace(plan, points=points)
    noisy = [set(find_ties(plan, paired, chosen, seeds=0.0)) for chosen in choices]
    assert noisy[0] > calm[0]
    assert noisy[1] == calm[1]  # by error alone no latency matters
    assert len(find_ties(plan, paired, choices[0], seeds=10.0)) == 7


def plan_of(points: list[GridPoint]) -> SearchPlan:
    """A plan with these points and the paper's exponents."""
    teacher = MaximumPoint(Arch(9, 9, 9, 9), None, "", 1000, [100.0, 100.0, 100.0])
    return SearchPlan(teacher, points, [], [1.0, 1.0, 1.0], "ms", "")


class TwoErrors:
    """Resampled errors of two candidates: normal, with these means and deviations, in pairs."""

    def __init__(self, means: dict, spread: float, common: float):
        rng = np.random.default_rng(0)
        base = rng.normal(0, common, 1000)
        self.errors = {xi: mean + base + rng.normal(0, spread, 1000) for xi, mean in means.items()}
        self.entropy = 4.0 + base

    def resample_entropy(self) -> np.ndarray:
        return self.entropy

    def resample_error(self, xi) -> np.ndarray:
        return self.errors[xi]


@pytest.mark.parametrize(
    ("exponents", "apart", "tied"),
    [((0, 0, 1), 0.2, False), ((0, 0, 1), 0.004, True), ((1, 1, 1), 0.2, True)],
)
def test_ties_by_error_know_no_latency(exponents, apart, tied):
    """0.2 nats are 70 standard errors of the paired difference; latencies are known to a third.

    The larger one is the better one by W, too, by less than the noise in its latency.
    """
    small, large = Arch(1, 1, 8, 8), Arch(1, 1, 8, 16)
    scale = Scale(1000, 100, 4.0, exponents)
    chosen = Selection({small: (10.0, 10.0), large: (11.0, 11.0)}, scale)
    for xi, error in ((small, 6.0 + apart), (large, 6.0)):
        chosen.tell(xi, error)
    latency = {xi: [i, 0.6 * i, 1.4 * i] for xi, (_, i) in chosen.points.items()}
    plan = plan_of([GridPoint(xi, 0, 0, latency[xi]) for xi in (small, large)])
    plan = replace(plan, teacher=replace(plan.teacher, latency=[100.0, 60.0, 140.0]))
    paired = TwoErrors(chosen.errors, spread=0.002, common=0.05)
    assert chosen.best == large
    assert find_ties(plan, paired, chosen, seeds=None) == ([small] if tied else [])


def test_controls_break_ties_as_the_search_does():
    """Equal p and i for two numbers of heads: each control names the one that the search would.

    Without a weight on size and time every bound is 1, so that none is a choice.
    """
    grid = [Arch(d, a, 8, 8) for d in (1, 2) for a in (4, 1, 2)]
    plan = plan_of([GridPoint(xi, 0, 10 * xi.depth, [1.0, 1.0, 1.0]) for xi in grid])
    numbers = {xi: (10.0 * xi.depth, 1.0 * xi.depth) for xi in grid}
    errors = dict.fromkeys(grid, 5.0)
    by_w = choose_by_controls(plan, Selection(numbers, Scale(100, 10, 4.0), errors=errors))
    assert set(by_w.values()) == {"⟨1,1,8,8⟩"}
    scale = Scale(100, 10, 4.0, (0, 0, 1))
    by_error = choose_by_controls(plan, Selection(numbers, scale, errors=errors))
    assert by_error["control_bound"] is None and by_error["by_error"] == "⟨1,1,8,8⟩"
    few = Selection(numbers, Scale(100, 10, 4.0), errors={Arch(1, 1, 8, 8): 5.0})
    assert choose_by_controls(plan, few)["control_size"] is None
    assert choose_by_controls(plan, few)["by_error"] == UNDECIDED


def test_a_winner_at_an_earlier_step_is_named_only_when_proven():
    """Of two trained ones the other is ahead at half; a third, untrained, could have been first."""
    grid = [Arch(1, 1, 8, k) for k in (8, 16, 32)]
    points = {xi: (float(xi.intermediate), float(xi.intermediate)) for xi in grid}
    run = type("Run", (), {"seed": 0, "search": type("Search", (), {"n": 8})})
    at_half = {Arch(1, 1, 8, 8): 2.0, Arch(1, 1, 8, 16): 0.5}
    origin = Origin(1, "", "", "", "", 8)

    def records(first: float) -> list[TrialRecord]:
        """What was recorded, with `first` as KL at a quarter of the steps."""
        return [
            TrialRecord(
                Job(xi, 0, 1.0),
                origin,
                TrialStatus.TRAINED,
                error=error,
                kl_by_step={"2": first, "4": at_half[xi]},
            )
            for xi, error in ((Arch(1, 1, 8, 8), 4.1), (Arch(1, 1, 8, 16), 4.5))
        ]

    chosen = Selection(points, Scale(100, 100, 4.0))
    for record in records(3.0):
        chosen.tell(record.xi, record.error)
    quarter, half = compare_horizons(records(3.0), chosen, run, 4.0)
    # W at half: 0.92² · 4/6 = 0.564 and 0.84² · 4/4.5 = 0.627; the third has at most 0.68² = 0.462
    assert chosen.best == Arch(1, 1, 8, 8) and half.ahead == "⟨1,1,8,16⟩"
    assert half.winner == "⟨1,1,8,16⟩" and half.step == 4
    assert (quarter.winner, quarter.ahead) == ("⟨1,1,8,8⟩", "⟨1,1,8,8⟩")
    # 0.92² · 0.4 = 0.339 is below the third one's bound
    quarter, _ = compare_horizons(records(6.0), chosen, run, 4.0)
    assert (quarter.winner, quarter.ahead) == (UNDECIDED, "⟨1,1,8,8⟩")


def test_border_and_horizon(done):
    run, folder, summary, _, _ = done
    chosen = search.build_selection(read_plan(folder), run, read_records(folder))
    assert isinstance(chosen, Selection)
    assert summary["step_at_half"] == 2 and summary["n"] == 6  # validated every n // 4
    named = describe_border(chosen)
    for key in ("depth", "hidden", "intermediate"):
        values = {getattr(xi, key) for xi in chosen.order}
        word = "smallest" if getattr(chosen.best, key) == min(values) else "largest"
        is_border = (key, getattr(chosen.best, key)) != ("depth", 1)  # nothing is below 1
        assert (f"{word} {key}" in named) == is_border  # of two values each is a border
    assert -1 <= summary["tau_at_half"] <= 1 and summary["winner_at_quarter"].startswith("⟨")
