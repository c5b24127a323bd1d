"""The last lines of a run tell the result, where it is, and the command that follows."""

import pytest
from tiny_runs import log_lines

from bort.runs.closing import print_result
from bort.runs.summary import RunSummary


@pytest.mark.parametrize(
    ("choice", "following"),
    [
        ("mlm_pretrain", "train.py experiment=kd_pretrain data=text data.path={text}"),
        ("kd_pretrain", "train.py experiment=finetune model={folder}"),
        ("teacher_pretrain", "train.py experiment=kd_pretrain teacher.name={folder}"),
    ],
)
def test_a_pre_training_names_its_model_and_what_is_next(
    settings_of, text, tmp_path, choice, following
):
    lines = log_lines()
    summary = RunSummary({"seconds": 61.0, "no_validation": "none held out"})
    print_result(settings_of(experiment=choice), tmp_path, summary, choice)
    page = "\n".join(lines)
    assert lines[0].endswith(f"{choice}: no validation (none held out) after 1:01 of training")
    assert f"model     {tmp_path}/model " in page and "samples" not in page
    assert lines[-1].endswith(following.format(folder=tmp_path, text=text))


def test_files_that_are_there_are_named(settings_of, tmp_path):
    (tmp_path / "samples.md").write_text("x")
    (tmp_path / "report.html").write_text("x")
    lines = log_lines()
    summary = RunSummary({"seconds": 1.0, "no_validation": "x"})
    print_result(settings_of(), tmp_path, summary, "mlm_pretrain")
    assert any(line.endswith(f"report    {tmp_path}/report.html") for line in lines)


def test_a_fine_tuning_tells_its_scores(settings_of, tmp_path):
    words = ("data=docstrings", "task=docstrings")
    lines = log_lines()
    summary = RunSummary({"val/accuracy": 0.75, "rows/val": 8})
    print_result(settings_of(*words, experiment="finetune"), tmp_path, summary, "finetune")
    assert "finetune: docstrings: val/accuracy 0.75" in lines[0] and "8 rows of val" in lines[0]
    assert lines[-1].endswith(f"answers   {tmp_path}/predictions/")


def test_a_continued_model_is_fine_tuned_next(settings_of, named_model, tmp_path):
    lines = log_lines()
    summary = RunSummary({"seconds": 1.0, "no_validation": "x"})
    print_result(settings_of(f"model={named_model}"), tmp_path, summary, "mlm_pretrain")
    assert lines[-1].endswith(f"train.py experiment=finetune model={tmp_path}")


@pytest.mark.parametrize(
    ("words", "longest", "ending"),
    [
        ([], 16, "of training at up to 16 tokens"),
        ([], 512, "of training at 16 tokens; it takes up to 512, as its teacher does"),
        (["model={model}"], 32, "at 16 tokens; it takes up to 32, as the model that it continues"),
        ([], None, "of training"),
    ],
)
def test_the_length_of_the_training_is_told(
    settings_of, named_model, tmp_path, words, longest, ending
):
    """A length that was taken over is not one that it was trained at."""
    lines = log_lines()
    run = settings_of(*(word.format(model=named_model) for word in words))
    summary = RunSummary({"seconds": 1.0, "no_validation": "x", "length": longest})
    print_result(run, tmp_path, summary, "mlm_pretrain")
    assert ending in lines[0] and (longest or lines[0].endswith(ending))
