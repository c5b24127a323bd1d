"""RunFolder: what it records, what it refuses, and that folders of version 0.1 open."""

import json

import pytest

from bort.errors import BortError
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary


def test_it_stands_for_its_path(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert str(folder) == str(RunFolder(folder)) == f"{tmp_path}/run"
    assert folder.model == folder / "model" == tmp_path / "run" / "model"
    assert folder.name == "run" and RunFolder("a/b").metrics.as_posix() == "a/b/metrics.csv"


def test_a_summary_makes_a_run_finished(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.find_summary() is None
    folder.write_summary(RunSummary({"steps": 3, "val/loss": None, "own": [1]}))
    assert folder.find_summary() == {"steps": 3, "val/loss": None, "own": [1]}
    folder.summary_file.write_text('{"steps": ')
    assert folder.find_summary() is None  # it is made again
    folder.summary_file.write_text('{"steps": "three"}')
    with pytest.raises(BortError, match="steps is 'three', no number; restore it or remove"):
        folder.find_summary()


def test_data_and_models_are_those_of_the_start(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_models() == {}
    folder.check_data("first")  # nothing is noted yet
    folder.check_inputs({"digest": "first", "secret": 1}, {"model": "m"})
    assert json.loads(folder.inputs_file.read_text()) == {
        "digest": "first",
        "models": {"model": "m"},
    }
    folder.check_inputs({"digest": "first"}, {"model": "m"})
    with pytest.raises(BortError, match="was started on other text .corpus first, now second"):
        folder.check_inputs({"digest": "second"})
    with pytest.raises(BortError, match="another model under this name"):
        folder.check_inputs({"digest": "first"}, {"model": "n"})


def test_a_setting_that_is_gone_is_left_out_of_the_record(tmp_path):
    """Searches of version 0.1 recorded agora.training, which is no setting any more."""
    folder = RunFolder(tmp_path)
    (folder / ".hydra").mkdir()
    path = folder / ".hydra" / "config.yaml"
    path.write_text("seed: 1\nagora: {training: null, rounds: 3}\n")
    assert folder.read_config() == {"seed": 1, "agora": {"rounds": 3}}
    path.write_text("seed: ${oc.env:HOME}\n")
    with pytest.raises(BortError, match="interpolation"):
        folder.read_config()


def test_one_process_at_a_time_and_nothing_stays(tmp_path):
    folder = RunFolder(tmp_path / "new" / "run")
    with folder.lock() as handle:
        assert isinstance(handle, int)
        with pytest.raises(BortError, match="another process is training in"), folder.lock():
            pass
    assert not (tmp_path / "new").exists()
