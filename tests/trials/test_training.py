"""Trainings of candidates: what is recorded, and failures that are their own."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import counting, log_lines, plan_of, sweep

from bort.config.train import PretrainRunConfig
from bort.errors import BortError, Diverged
from bort.files.checked import write_checked
from bort.pretraining.datamodule import PackedDataModule
from bort.pretraining.recipe import prepare, train_leg
from bort.runs.folder import RunFolder
from bort.search import optimum
from bort.search import sweep as search
from bort.teachers.states import KeptStates, TeacherStates
from bort.training.checkpoint import Leg
from bort.trials import inputs, training
from bort.trials.records import read_records

# One width and depth, nothing trained again.
ALONE = ["grid.depth=[1]", "grid.hidden=[16]", "search.seeds=1", "search.finalists=1"]


def test_no_memory_beside_others_is_tried_alone(search_of, tmp_path, monkeypatch):
    """The first time beside another training; then alone, where it fits or does not."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "search.parallel=2")
    train, crowd = training.train_leg, []

    def scarce(job, *inputs, **options):
        if job.arch.intermediate == 32:
            raise MemoryError
        if len(crowd) > 1:
            raise MemoryError
        return train(job, *inputs, **options)

    monkeypatch.setattr(training, "train_leg", scarce)
    lines, batches = log_lines(), []
    with search.open_sweep(run, tmp_path / "run") as sweep:
        while crowd := sweep.ask():
            batches.append([job.xi.intermediate for job in crowd])
            for job in crowd:
                settings = replace(run, arch=job.xi, seed=job.seed)
                training.evaluate(settings, tmp_path / "run", tmp_path / "run" / job.folder)
            sweep.collect(crowd)
    assert sorted(batches[0]) == [16, 32] and sorted(batches[1:]) == [[16], [32]]
    assert [r.status for r in read_records(tmp_path / "run")] == ["trained", "failed"]
    assert any("found no memory beside others; now alone" in line for line in lines)
    assert [line for line in lines if "⟨1,1,16,32⟩ failed: out of memory" in line]
    summary = optimum.conclude(tmp_path / "run").to_json()
    assert (summary["trained"], summary["failed"], summary["diverged"]) == (1, 1, 0)
    assert summary["regret_bound"] == pytest.approx(1 - summary["w"])


def test_a_kill_among_the_checkpoints_of_a_candidate_leaves_none(search_of, tmp_path, monkeypatch):
    """They go before the candidate has a record, by which it is left alone."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "search.seeds=1", "checkpoint_every=2")

    def killed(folder: RunFolder) -> None:
        checkpoints(Path(folder))[0].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "remove_checkpoints", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(run, tmp_path / "run")
    assert any(map(checkpoints, (tmp_path / "run").glob("D*")))
    assert sweep(run, tmp_path / "run")["trained"] == 2
    assert not any(map(checkpoints, (tmp_path / "run").glob("D*")))


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoints/*.ckpt"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out of memory"),
        (Diverged("the loss became nan"), "the loss became nan"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (BortError("the text was changed"), None),
    ],
)
def test_what_a_candidate_can_be_blamed_for(error, reason):
    assert training.explain_failure(error) == reason


def test_validations_look_at_a_part_and_the_last_row_is_of_all(search_of, tmp_path):
    """KL of the looks is that of every fourth batch; what a candidate ends with is of all."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "data.batch_size=1", "search.n=8")
    folder = tmp_path / "run"
    sweep(run, folder)
    corpus, teacher = prepare(run)
    val = inputs.make_val_batches(corpus, run)
    sizes = [len(batch["positions"]) for batch in val]
    assert len(sizes) > 1
    entropy = np.load(folder / "teacher" / "entropy.npy")
    for record in read_records(folder):
        place = folder / record.job.folder
        assert record.look_positions == sum(sizes[:: training.LOOK_EVERY]) < sum(sizes)
        rows = list(csv.DictReader((place / "metrics.csv").read_text().splitlines()))
        looks = {row["step"]: float(row["val/kd_loss"]) for row in rows if row["val/kd_loss"]}
        assert list(looks) == ["2", "4", "6", "8"] and looks == record.kl_by_step
        kl = np.load(place / "losses.npy") - entropy
        assert looks["8"] == pytest.approx(kl.mean(), abs=1e-6)
        summary = json.loads((place / "summary.json").read_text())
        assert summary["val/kd_loss"] == looks["8"] and rows[-1]["train/loss"]
        assert summary["val/mlm_accuracy"] == record.mlm_accuracy
        assert summary["val/teacher_entropy"] == pytest.approx(entropy.mean(), abs=1e-6)
    result = json.loads((folder / "summary.json").read_text())
    assert result["positions_at_half"] == record.look_positions
    page = (folder / "report.html").read_text()
    assert f"after 4 steps (at {record.look_positions:,} of {sum(sizes):,} positions)" in page


def test_a_kill_before_the_record_keeps_the_training(search_of, tmp_path, monkeypatch):
    """The finished training is measured, not repeated; a record of before has no look positions."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "data.batch_size=1", "search.n=8")
    folder = tmp_path / "run"

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "measure_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(run, folder)
    (begun,) = folder.glob("D*/summary.json")
    quarter = json.loads(begun.read_text())
    sweep(run, folder)
    whole = json.loads(begun.read_text())
    assert whole["seconds"] == quarter["seconds"] and whole["val/loss"] != quarter["val/loss"]
    path = begun.parent / "point.json"
    content = {k: v for k, v in json.loads(path.read_text()).items() if k != "check"}
    del content["look_positions"]
    write_checked(path, content)
    records = {record.job.folder: record for record in read_records(folder)}
    assert records[begun.parent.name].look_positions is None
    assert sweep(run, folder)["trained"] == 2


def test_rate_by_width(search_of):
    run = search_of("search.kappa=0.5", "arch={depth: 1, heads: 1, hidden: 16, intermediate: 16}")
    corpus, _ = prepare(run)
    job = training.make_candidate_settings(run, 8)
    assert job.optim.lr == pytest.approx(run.optim.lr * 8**0.5)  # (16 / 128) ** -0.5
    assert job.trainer["max_steps"] == 6 and type(job) is PretrainRunConfig


def test_workers_may_read_ahead(done, search_of, tmp_path):
    """Of loaders: beyond the last step there is no kept output of T, and none is needed."""
    run = search_of("data.workers=1", "search.seeds=1", "grid.depth=[1]", "grid.hidden=[16]")
    sweep(run, tmp_path / "run")
    errors = {r.xi: r.error for r in read_records(done[1]) if r.job.seed == 0}
    found = read_records(tmp_path / "run")
    assert found and all(r.error == errors[r.xi] for r in found)
    assert not list((tmp_path / "run").glob("D*/checkpoints"))


def test_a_rung_is_a_plain_training_of_its_steps(halved, tmp_path):
    """Continued from the rung before or not, the weights are those of one training, bit by bit.

    0.05 of 17 is the warm-up of 16 steps; the rate is at its peak up to 80% of a rung.
    """
    run, folder, _ = halved
    corpus, teacher = inputs.open_corpus_and_teacher(run, folder)
    records = [r for r in read_records(folder) if r.job.steps in (None, 8)]
    assert {record.job.steps for record in records} == {None, 8}
    states = TeacherStates(folder / "teacher" / "train-s0", 32)
    answers = inputs.open_answers(folder, teacher)
    for record in records:
        steps = record.job.steps or 16
        settings = run.to_pretraining(
            arch=record.xi,
            optim=replace(run.optim, lr=record.lr),
            trainer={**run.trainer, "max_steps": steps, "limit_val_batches": 0},
        )
        data = PackedDataModule(
            settings.data, seed=0, corpus=corpus, states=KeptStates(states, answers.states)
        )
        wsd = replace(settings.optim, schedule="wsd", warmup=0.05 * 17 / (steps + 1), decay=0.2)
        alone = tmp_path / record.job.folder
        train_leg(settings, alone, corpus, teacher, data, "alone", Leg(optim=wsd))
        ours, plain = (
            load_file(path / "model" / "model.safetensors")
            for path in (folder / record.job.folder, alone)
        )
        assert ours.keys() == plain.keys()
        assert all(torch.equal(ours[key], plain[key]) for key in plain)
        lines = (folder / record.job.folder / "metrics.csv").read_text().splitlines()
        rows = list(csv.DictReader(lines))
        first = min(int(row["step"]) for row in rows)
        assert first == {8: 4, 16: 7}[steps]  # 3 and 6 steps are those of the rungs before


def test_work_of_a_rung_is_that_of_its_own_steps(search_of, tmp_path):
    """As torch counts it, of each training: those from the start and those that continue one."""
    words = ("search.halving=true", "search.n=16", "search.exponents=[0,0,1]")
    run = search_of(*ALONE, *words, "init=default")  # the start from T's embeddings is no step
    folder, flops = tmp_path / "run", []
    prepare(run)
    with search.open_sweep(run, folder) as sweep:
        while batch := sweep.ask():
            inputs.forget_corpus_and_teacher()  # T's answers would be there already
            with counting() as counter:
                record = training.evaluate(batch[0].apply(run), folder, folder / batch[0].folder)
            flops.append(record.flops)
            assert record.flops == pytest.approx(counter.get_total_flops(), rel=1e-9)
            sweep.collect(batch)
        plan = sweep.plan
    assert len(flops) == 6  # of both candidates
    shown = plan_of(run)["FLOPs"]  # "at most 1.0e+09 (trainings 9.9e+08, finalists …"
    assert float(shown.split("trainings ")[1].split()[0].strip(",")) == pytest.approx(
        sum(flops), rel=0.06
    )
    summary = optimum.conclude(folder).to_json()
    assert summary["train_flops"] == sum(flops) + plan.teacher_flops + plan.teacher_val_flops
    assert (summary["trainings"], summary["shortened"]) == (6, 4)
    assert summary["regret_bound_curves"] is None and summary["crossings"] == [None, None]


def test_a_lost_checkpoint_of_a_rung_costs_its_steps_alone(halved, tmp_path):
    """The error is the same; so it is where the checkpoint is damaged."""
    run, folder, _ = halved
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    record = next(r for r in read_records(copy) if r.job.steps == 8)
    shutil.rmtree(copy / record.job.folder)
    before = copy / replace(record.job, steps=4).folder / "checkpoints"
    assert not list(before.glob("*.ckpt"))  # removed when the next rung had its record
    again = training.evaluate(record.job.apply(run), copy, copy / record.job.folder)
    assert again.error == record.error and again.flops > record.flops
    assert [p.name[:13] for p in checkpoints(copy / record.job.folder)] == ["step_00000006"]
