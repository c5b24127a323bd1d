"""A training takes as many threads as make its steps fastest, and keeps them."""

import json

import pytest
import torch
from tiny_runs import log_lines

from bort import machine
from bort.files.run_files import make_run_record
from bort.pretraining.recipe import pretrain
from bort.runs.folder import RunFolder
from bort.training import threads
from bort.training.threads import choose_threads, find_fastest, plan_step, use_threads

SLOW = {4: 2.0, 2: 1.5, 1: 1.0}  # seconds of a step that is faster with fewer threads


@pytest.fixture
def nobody_chose(monkeypatch, tmp_path):
    """Four cores, of which nobody has said how many threads they are for; an empty cache."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", machine.QUOTA_THREADS, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(threads, "count_default_threads", lambda: {4})
    monkeypatch.setattr(threads, "is_busy", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def timed(monkeypatch):
    """What a timing is to give, by the step; it lists the steps that were timed."""
    steps = []

    def measure(step):
        steps.append(step)
        return dict(SLOW)

    monkeypatch.setattr(threads, "measure_seconds", measure)
    return steps


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        ({4: 1.0, 2: 2.0, 1: 4.0}, 4),
        ({4: 1.0, 2: 0.9, 1: 0.8}, 1),
        ({4: 1.0, 2: 0.5, 1: 0.8}, 2),
        ({4: 1.0, 2: 0.98, 1: 0.96}, 4),  # too little to be sure of
        ({1: 1.0}, 1),
    ],
)
def test_fewer_threads_must_gain_something(seconds, count):
    assert find_fastest(seconds) == count


def test_a_timing_chooses_once_on_a_machine(nobody_chose, timed, settings_of):
    run, lines = settings_of(), log_lines()
    assert choose_threads(run, None) == choose_threads(run, None) == 1 and len(timed) == 1
    assert [line for line in lines if line.startswith("threads")] == [
        "threads: 1 of 4; 0.5 × the time of a step with 4 threads"
    ] * 2
    assert choose_threads(settings_of("data.batch_size=3"), None) == 1 and len(timed) == 2
    threads.locate_seconds().write_text("{")  # damaged: timed again
    assert choose_threads(run, None) == 1 and len(timed) == 3


def test_what_a_busy_machine_gives_is_not_kept(nobody_chose, timed, settings_of, monkeypatch):
    monkeypatch.setattr(threads, "is_busy", lambda: True)
    assert choose_threads(settings_of(), None) == choose_threads(settings_of(), None) == 1
    assert len(timed) == 2
    monkeypatch.setattr(threads, "measure_seconds", lambda step: None)  # nothing can be told
    assert choose_threads(settings_of(), None) is None


def test_a_resumed_run_keeps_its_threads(nobody_chose, timed, settings_of):
    run = settings_of()
    assert choose_threads(run, 2) == 2
    assert choose_threads(run, 0) == 0  # of an older version, which took all
    assert choose_threads(run, 64) == 4  # from a larger machine
    assert not timed
    assert choose_threads(settings_of("resume=false"), 2) == 1 and timed


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.devices=2", "trainer.strategy=ddp"],
        ["trainer.num_nodes=2"],
        ["arch={depth: 24, heads: 16, hidden: 1024, intermediate: 4096}", "data.batch_size=64"],
    ],
)
def test_several_processes_and_large_steps_take_what_there_is(
    nobody_chose, timed, settings_of, words
):
    assert choose_threads(settings_of(*words), None) is None and not timed


def test_who_sets_the_number_has_it(nobody_chose, timed, settings_of, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "4")
            assert choose_threads(settings_of(), None) is None
            with use_threads(1):
                assert torch.get_num_threads() == 4
    with monkeypatch.context() as patch:  # a quota's number is bort's own
        patch.setenv("OMP_NUM_THREADS", "4")
        patch.setenv(machine.QUOTA_THREADS, "4")
        assert choose_threads(settings_of(), None) == 1
    torch.set_num_threads(3)
    assert choose_threads(settings_of(), None) is None
    assert len(timed) == 1


def test_the_number_is_put_back(nobody_chose):
    with pytest.raises(RuntimeError), use_threads(2):
        assert torch.get_num_threads() == 2
        with use_threads(1):  # whoever is outside has chosen
            assert torch.get_num_threads() == 2
        raise RuntimeError
    assert torch.get_num_threads() == 4
    for nothing in (None, 0):
        with use_threads(nothing):
            assert torch.get_num_threads() == 4


def test_a_step_has_the_sizes_of_the_run(settings_of):
    step = plan_step(settings_of("data.batch_size=5", "data.mask_rate=0.3"))
    assert (step.student.hidden, step.teacher, step.vocab, step.masked) == (16, None, 280, 24)
    step = plan_step(settings_of(experiment="kd_pretrain"))
    assert step.teacher.hidden == 32
    # by hand: 80 × 16 × 16 four times and 80 × 16 × 32 twice; 24 × 16 × (16 + 280); three passes
    step = plan_step(settings_of("data.batch_size=5", "data.mask_rate=0.3"))
    assert step.count_flops() == 3 * 2 * (80 * (4 * 16 * 16 + 2 * 16 * 32) + 24 * 16 * (16 + 280))
    task = plan_step(settings_of("task=docstrings", "data.batch_size=5", experiment="finetune"))
    assert task.masked == 5


def test_a_search_is_timed_by_the_candidate_in_the_middle(search_of):
    run = search_of()
    step, archs = plan_step(run), run.grid.points()[0]
    assert step.student in archs and step.student not in (min(archs), max(archs))
    assert step.teacher is None and str(plan_step(search_of())) == str(step)


def test_a_timing_takes_steps_and_changes_no_state(nobody_chose, settings_of, monkeypatch):
    state = torch.get_rng_state()
    step = plan_step(settings_of(experiment="kd_pretrain"))
    monkeypatch.setattr(threads, "SECONDS", 0.0)
    monkeypatch.setattr(threads, "LEAST_SHARE", 0.0)
    seconds = threads.measure_seconds(step)
    assert set(seconds) == {4, 2, 1} and min(seconds.values()) > 0
    assert torch.get_num_threads() == 4 and torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(threads, "LEAST_SHARE", 1000.0)  # more than any processor gives
    assert threads.measure_seconds(step) is None


def test_a_run_records_its_threads(nobody_chose, timed, settings_of, tmp_path):
    run = settings_of("trainer.max_steps=2")
    assert pretrain(run, tmp_path / "run")["threads"] == 1
    assert torch.get_num_threads() == 4
    assert RunFolder(tmp_path / "run").threads == 1
    record = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert record["threads"] == 1
    assert "threads" not in RunFolder(tmp_path / "run").read_settings()
    assert RunFolder(tmp_path / "nothing").threads is None
    (tmp_path / "run" / "settings.json").write_text(json.dumps(make_run_record({"job": "x"})))
    assert RunFolder(tmp_path / "run").threads == 0


def test_default_numbers_of_threads(monkeypatch):
    monkeypatch.setattr(machine, "count_usable_cores", lambda: 8)
    counts = machine.count_default_threads()
    assert 8 in counts and counts <= {8, 4}
