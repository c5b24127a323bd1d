"""The control arm is a plain fine-tuning with the steps of the student, kept once."""

import shutil

import pytest

from bort.files.run_files import clear_run
from bort.finetuning.recipe import finetune
from bort.models.huggingface import load_classifier
from bort.task_distillation.control import build_plain_run
from bort.task_distillation.recipe import distill_task


@pytest.fixture(scope="module")
def done(run_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control") / "run"
    return folder, distill_task(run_of("distill.control=true"), folder)


def test_it_is_a_plain_fine_tuning_of_as_many_steps(done, compose_run, student, of_table, tmp_path):
    folder, summary = done
    words = ["experiment=finetune", f"model={student}", *of_table]
    words += ["trainer.max_epochs=-1", f"trainer.max_steps={summary['steps']}"]
    plain = finetune(compose_run(*words), tmp_path / "plain")
    assert plain.steps == summary.steps == 6 * 13
    assert summary["control/val/accuracy"] == plain["val/accuracy"]
    ours, theirs = (
        load_classifier(path / "model")[0].state_dict()
        for path in (folder / "control", tmp_path / "plain")
    )
    assert all(ours[name].equal(weight) for name, weight in theirs.items())


def test_a_finished_control_arm_is_kept(done, run_of):
    """The run was stopped after its control arm and before its own summary."""
    folder, summary = done
    (folder / "summary.json").unlink()
    before = (folder / "control" / "summary.json").stat().st_mtime_ns
    again = distill_task(run_of("distill.control=true"), folder)
    assert again["control/val/accuracy"] == summary["control/val/accuracy"]
    assert (folder / "control" / "summary.json").stat().st_mtime_ns == before


def test_it_is_removed_with_its_run(done, tmp_path):
    folder, _ = done
    copy = shutil.copytree(folder, tmp_path / "copy")
    clear_run(copy)
    assert not (copy / "control").exists()


def test_its_settings(run_of):
    run = run_of("patience=3")
    plain = build_plain_run(run, "other", head="mean")
    assert (plain.job, plain.model, plain.head, plain.patience) == ("finetune", "other", "mean", 3)
    assert plain.teacher.name is None and plain.data.unlabelled is None
    assert plain.data.train == run.data.train and plain.optim == run.optim
