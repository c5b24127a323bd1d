"""The files of run folders by name: all of them known, nothing behind a link cleared."""

import json

from files_helpers import content, write

from bort import report
from bort.files import run_files
from bort.pretraining.recipe import pretrain


def test_nothing_behind_a_link_is_cleared(settings_of, tmp_path):
    """Another run's model and another run, linked into this one."""
    run = settings_of("trainer.max_steps=1")
    for name in ("this", "other"):
        pretrain(run, tmp_path / name)
    before = content(tmp_path / "other")
    (tmp_path / "this" / "teacher").symlink_to(tmp_path / "other")
    (tmp_path / "this" / "kd").mkdir()
    (tmp_path / "this" / "kd" / "lr_1").symlink_to(tmp_path / "other")
    (tmp_path / "this" / "model").rename(tmp_path / "old")
    (tmp_path / "this" / "model").symlink_to(tmp_path / "other" / "model")
    run_files.clear_run(tmp_path / "this")
    assert content(tmp_path / "other") == before
    assert {p.name for p in (tmp_path / "this").iterdir()} == {"teacher", "kd", "model"}


def test_every_file_of_every_job_is_known(settings_of, tmp_path):
    """Or resume=false would leave it: a finished run is cleared to the last file."""
    folder = tmp_path / "run"
    record = dict.fromkeys(("config.yaml", "overrides.yaml", "hydra.yaml"), "[]\n")
    pretrain(settings_of("trainer.max_steps=2"), folder, record)
    report.write_page(folder)
    assert len(content(folder)) >= 14 - 4
    write(folder, {"model/notes.md": "mine", "a.txt": "mine", "checkpoints/best.ckpt": "mine"})
    run_files.clear_run(folder)
    assert content(folder) == {
        "model/notes.md": "mine",
        "a.txt": "mine",
        "checkpoints/best.ckpt": "mine",
    }
    assert not (folder / ".hydra").exists()


def test_the_layout_of_a_model_that_embeds_is_cleared_by_its_mark(tmp_path):
    """Files of sentence-transformers beside another model may be the user's, and stay."""
    record = json.dumps(run_files.make_run_record({"job": "finetune"}))
    kept = {}
    for name, config in (("ours", {"bort_kind": "Embedding"}), ("theirs", {})):
        model = tmp_path / name / "model"
        (model / "1_Pooling").mkdir(parents=True)
        (tmp_path / name / "settings.json").write_text(record)
        (model / "config.json").write_text(json.dumps(config))
        for path in ("modules.json", "1_Pooling/config.json", "1_Pooling/mine.txt"):
            (model / path).write_text("{}")
        pooling = model / "1_Pooling" / "config.json"
        assert run_files.is_made_by_run(pooling, tmp_path / name) == (name == "ours")
        run_files.clear_run(tmp_path / name)
        kept[name] = {p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file()}
    assert kept["ours"] == {"1_Pooling/mine.txt"}
    assert kept["theirs"] == {"modules.json", "1_Pooling/config.json", "1_Pooling/mine.txt"}
