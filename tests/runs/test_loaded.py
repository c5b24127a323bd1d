"""A run is loaded from its files whole, and a damaged file is named in one line."""

import json

import pytest

from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.runs.loaded import load_run, load_runs, read_curves


def test_curves_hold_the_numbers_of_the_whole_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_curves(path) == {}
    path.write_text("step,epoch,train/loss,val/loss\n1,0,2.5,\n2,0,nan,3\n3,0,1.5,inf\n4,0,1.")
    curves = {key: (s.tolist(), v.tolist()) for key, (s, v) in read_curves(path).items()}
    assert curves == {
        "epoch": ([1, 2, 3], [0, 0, 0]),
        "train/loss": ([1, 3], [2.5, 1.5]),
        "val/loss": ([2], [3]),
    }


@pytest.mark.parametrize("text", ["epoch,a\n1,2\n", "step,a\nx,2\n", "step,a\n1,2,3\n"])
def test_a_table_that_is_none_by_step(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(BortError, match="is no table by step; restore it"):
        read_curves(tmp_path / "metrics.csv")


@pytest.fixture
def settings(settings_of) -> dict:
    return flatten_settings(settings_of())


def test_a_run_has_a_name_scores_and_a_summary_when_finished(settings, tmp_path):
    folder = tmp_path / "finetune" / "first"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "metrics.csv").write_text("step,val/loss,val/accuracy\n5,1.0,0.75\n")
    run = load_run(folder)
    assert run.name == "finetune/first" and run.settings == settings
    assert run.scores == ["val/accuracy"] and not run.summary
    (folder / "summary.json").write_text('{"steps": 5}')
    assert load_run(folder).summary.steps == 5
    assert [one.folder.path for one in load_runs(tmp_path)] == [folder]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.length": None}, "data.length is None; restore it"),
        ({"data.length": True}, "data.length is True; restore it"),
        ({"data.source": 3}, "data.source is 3; restore it"),
    ],
)
def test_a_setting_of_another_type_is_named(settings, tmp_path, change, message):
    (tmp_path / "settings.json").write_text(json.dumps(settings | change))
    with pytest.raises(BortError, match=message):
        load_run(tmp_path)


def test_folders_without_a_run(settings, tmp_path):
    with pytest.raises(BortError, match="holds no run of bort"):
        load_run(tmp_path)
    with pytest.raises(BortError, match="does not exist"):
        load_runs(tmp_path / "absent")
    del settings["data.length"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(BortError, match=r"settings.json lacks data\.length"):
        load_run(tmp_path)
