"""`trainer.precision=auto`: what decides it, what it does to a run, and that it stays."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.pretraining.recipe import pretrain
from bort.pretraining.teacher import locate_teacher
from bort.runs.folder import RunFolder
from bort.training import precision
from bort.training.precision import count_work, foresee_precision, settle_precision
from bort.training.products import ProductSize, ProductSpeed

AUTO = "trainer.precision=auto"


@pytest.fixture
def tiny_counts(monkeypatch):
    """Let the tiny models of these tests be wide enough for bf16."""
    monkeypatch.setattr(precision, "LEAST_HIDDEN", 0)


@pytest.fixture
def factor(monkeypatch, tiny_counts):
    """Set how many times as fast bf16 is, and count how often that is measured."""
    calls = []

    def set_factor(value: float) -> list:
        def measure(sizes):
            calls.append(list(sizes))
            return dict.fromkeys(sizes, ProductSpeed(100.0, 100.0 * value))

        monkeypatch.setattr(precision, "measure_speeds", measure)
        return calls

    return set_factor


def lines(caplog) -> list[str]:
    return [record.message for record in caplog.records if "precision" in record.message]


@pytest.mark.parametrize(("times", "chosen"), [(1.31, "bf16-mixed"), (1.29, "32-true")])
def test_the_factor_decides(settings_of, factor, caplog, times, chosen):
    calls = factor(times)
    with caplog.at_level(logging.INFO, "bort"):
        run = settle_precision(settings_of(AUTO), None)
    assert run.trainer["precision"] == chosen and len(calls) == 1
    (line,) = lines(caplog)
    assert line.startswith(f"precision: {chosen}; bf16 products of this model's sizes are 1.3 × as")


def test_a_run_that_is_resumed_keeps_its_precision(settings_of, factor, caplog):
    calls = factor(3.0)
    run = settings_of(AUTO)
    with caplog.at_level(logging.INFO, "bort"):
        assert settle_precision(run, "32-true").trainer["precision"] == "32-true"
    assert lines(caplog) == ["precision: 32-true, as when this run was started"] and not calls
    again = settle_precision(replace(run, resume=False), "32-true")
    assert again.trainer["precision"] == "bf16-mixed"


def test_a_precision_that_is_named_stays(settings_of, factor, caplog):
    calls = factor(3.0)
    for name in ("32-true", "bf16-mixed", "16-mixed", "32"):
        run = settings_of(f"trainer.precision={name}")
        assert settle_precision(run, None) is run
    assert len(calls) == 1 and not lines(caplog)


def test_a_slower_bf16_warns_once(settings_of, factor, caplog):
    factor(0.45)
    run = settings_of("trainer.precision=bf16-mixed")
    assert settle_precision(run, None).trainer["precision"] == "bf16-mixed"
    (line,) = lines(caplog)
    assert "bf16-mixed makes this slower" in line and "are 0.45 × as fast" in line
    assert len(line) <= 200


def test_a_gpu_keeps_float32(settings_of, factor, monkeypatch):
    calls = factor(3.0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    run = settings_of(AUTO, "trainer.accelerator=auto")
    assert settle_precision(run, None).trainer["precision"] == "32-true" and not calls
    on_cpu = settings_of(AUTO, "trainer=cpu")
    assert settle_precision(on_cpu, None).trainer["precision"] == "bf16-mixed"


def test_processes_of_one_training_agree(settings_of, factor, monkeypatch):
    calls = factor(3.0)
    monkeypatch.setenv("BORT_PRECISION", "")
    settle_precision(settings_of(AUTO), None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    factor(0.5)
    assert settle_precision(settings_of(AUTO), None).trainer["precision"] == "bf16-mixed"
    assert len(calls) == 1


def test_narrow_models_are_trained_in_float32_without_a_timing(
    settings_of, factor, caplog, monkeypatch
):
    calls = factor(3.0)
    monkeypatch.setattr(precision, "LEAST_HIDDEN", 256)
    run = settings_of(AUTO)
    with caplog.at_level(logging.INFO):
        assert settle_precision(run, None).trainer["precision"] == "32-true"
    assert foresee_precision(run, None).trainer["precision"] == "32-true"
    assert "narrower than 256" in lines(caplog)[0] and not calls
    wide = replace(run, arch=Arch(1, 4, 256, 64))
    assert settle_precision(wide, None).trainer["precision"] == "bf16-mixed"


def test_a_plan_times_nothing(settings_of, monkeypatch, tiny_counts):
    monkeypatch.setattr(precision, "measure_speeds", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(precision, "read_speeds", dict)
    run = settings_of(AUTO)
    assert foresee_precision(run, None).trainer["precision"] == "auto"
    assert foresee_precision(run, "bf16-mixed").trainer["precision"] == "bf16-mixed"
    speeds = dict.fromkeys(count_work(run), ProductSpeed(100.0, 300.0))
    monkeypatch.setattr(precision, "read_speeds", lambda: speeds)
    assert foresee_precision(run, None).trainer["precision"] == "bf16-mixed"


# ------------------------------------------------------------------------------ what is counted


def test_the_sizes_are_those_of_the_models(settings_of):
    """⟨1,2,16,32⟩ on 8 × 16 tokens, of which 30% are masked, with 280 words; T is ⟨1,2,32,64⟩."""
    plain = count_work(settings_of(AUTO))
    layer = 3 * 2 * 128 * 16 * 16 * 4
    head = 3 * 2 * 38 * 16
    assert plain == {
        ProductSize(128, 16, 16): layer,
        ProductSize(128, 16, 32): layer,
        ProductSize(38, 16, 16): head * 16,
        ProductSize(38, 16, 280): head * 280,
    }
    taught = count_work(settings_of(AUTO, experiment="kd_pretrain"))
    assert taught[ProductSize(128, 32, 32)] == 2 * 128 * 32 * 32 * 4
    assert len(taught) == precision.MOST_SIZES


def test_the_sizes_of_a_task_are_those_of_its_model(settings_of, folders):
    words = (AUTO, "task=custom", "data.train=x.csv", f"model={folders['masked']}")
    run: TrainConfig = settings_of(*words, experiment="finetune")
    rows = run.data.batch_size * 16
    sizes = {ProductSize(rows, 16, 16), ProductSize(rows, 16, 32)}  # of ⟨1,2,16,32⟩
    assert count_work(run).keys() == sizes


def test_a_search_counts_all_candidates_and_the_teacher(search_of):
    run = search_of(AUTO)
    work = count_work(run)
    rows = run.data.batch_size * 16
    # eight candidates: ⟨1..2, H/16, 16..32, 16..32⟩; 6 steps each, and 5 of T, ⟨2,2,32,64⟩
    of_width = 3 * 6 * 2 * rows * 32 * 32 * (4 + 4 + 8 + 8 + 2 + 4)
    of_teacher = (3 * 5 + 6) * 2 * rows * 32 * 32 * 8
    assert work[ProductSize(rows, 32, 32)] == of_width + of_teacher
    assert run.grid.points()[0][0] == Arch(1, 1, 16, 16)


# --------------------------------------------------------------------------- what it does to a run


def test_the_choice_is_a_setting_of_the_run(settings_of, factor, tmp_path):
    """A resume compares with what was chosen, also where this machine would choose otherwise."""
    factor(3.0)
    run, folder = settings_of(AUTO), tmp_path / "run"
    record = {"config.yaml": "job: pretrain\ntrainer:\n  a: 1\n  precision: auto\n  b: auto\n"}
    summary = pretrain(run, folder, record)
    assert summary["precision"] == "bf16-mixed"
    assert RunFolder(folder).precision == "bf16-mixed"
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert config["trainer"] == {"a": 1, "precision": "bf16-mixed", "b": "auto"}
    factor(0.5)
    assert dict(pretrain(run, folder)) == dict(summary)
    (folder / "summary.json").unlink()
    assert pretrain(run, folder)["precision"] == "bf16-mixed"
    with pytest.raises(BortError, match="trainer.precision=bf16-mixed, now 32-true"):
        pretrain(settings_of(), folder)


def test_a_run_of_an_older_version_goes_on_in_float32(settings_of, factor, tmp_path):
    calls = factor(3.0)
    folder = tmp_path / "run"
    pretrain(settings_of(), folder)
    path = folder / "settings.json"
    settings = json.loads(path.read_text())
    del settings["trainer.precision"]
    path.write_text(json.dumps(settings))
    (folder / "summary.json").unlink()
    RunFolder(folder).remove_checkpoints()  # they know the digest of the settings
    assert pretrain(settings_of(AUTO), folder)["precision"] == "32-true"
    assert not calls


def test_a_teacher_is_kept_by_its_precision(settings_of, factor, tmp_path):
    from bort.pretraining.corpus import build_corpus

    factor(3.0)
    run = settle_precision(settings_of(AUTO, experiment="kd_pretrain"), None)
    corpus = build_corpus(run.data, tmp_path, None)
    folders: set[Path] = {
        locate_teacher(run.with_precision(name), corpus) for name in ("32-true", "bf16-mixed")
    }
    assert len(folders) == 2 and locate_teacher(run, corpus) in folders


def test_a_teacher_that_is_not_asked_counts_for_nothing(settings_of, folders):
    """It gives the embeddings that the student starts with, and passes no text."""
    words = (AUTO, f"teacher.name={folders['masked']}", "init=teacher")
    asked, unasked = (
        count_work(
            settings_of(*words, f"distill.w_kd={w}", "distill.w_mlm=1", experiment="kd_pretrain")
        )
        for w in (1, 0)
    )
    assert sum(asked.values()) > sum(unasked.values())
    plain = count_work(settings_of(AUTO, *words[1:2], experiment="mlm_pretrain"))
    assert unasked == plain
