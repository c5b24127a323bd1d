"""Nothing of the user's is lost: what bort replaces and removes, and what it leaves alone."""

import json
import os
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from files_helpers import NO_GRID, USERS, composed, content, exported, refused, write

from bort import html, report
from bort.benchmark import run as benchmark
from bort.benchmark.settings import BenchmarkConfig
from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.export import run as export
from bort.files import locks, ownership
from bort.predict.run import main as predict
from bort.predict.settings import PredictConfig
from bort.pretraining.recipe import prepare, pretrain, train
from bort.runs.folder import RunFolder
from bort.search import callback


def left(target: Path, kind: str, process: int) -> Path:
    """The name that a process of this number gives to a temporary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership.os, "getpid", lambda: process)
        return ownership.name_temporary(target, kind)


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_an_old_folder_that_is_the_only_copy_gets_its_name_back(tmp_path, dead):
    out = exported(tmp_path / "out", {"a": "1"})
    before = content(out)
    out.rename(left(out, "old", dead))
    left(out, "new", dead).mkdir()
    ownership.settle(tmp_path)
    assert content(out) == before and os.listdir(tmp_path) == ["out"]


FOREIGN = {
    "an empty object": "{}",
    "no JSON": "not json",
    "nested too deeply": "[" * 100_000,
    "of something else": json.dumps({"format": "hf", "files": ["thesis.tex", "export.json"]}),
    "another's mark": json.dumps({"made_by": "site 1.0", "files": ["export.json", "thesis.tex"]}),
    "a way out": json.dumps({"made_by": "bort 0.1.0", "files": ["export.json", "../thesis.tex"]}),
    "no list": json.dumps({"made_by": "bort 0.1.0"}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_export_onto_a_strangers_folder_leaves_it_alone(tmp_path, model, kind):
    site = write(tmp_path / "site", {"export.json": FOREIGN[kind], "thesis.tex": "years"})
    before = content(tmp_path)
    with pytest.raises(BortError, match="site exists and is no export of bort") as error:
        export.export(str(model), "hf", site)
    refused(error)
    assert content(tmp_path) == before


def test_an_export_again_keeps_what_the_user_added(tmp_path, model):
    out = tmp_path / "out"
    export.export(str(model), "hf", out)
    write(out, USERS)
    export.export(str(model), "hf", out)
    record = json.loads((out / "export.json").read_text())
    assert record["made_by"].startswith("bort ")
    assert {*record["files"], *USERS} == content(out).keys()
    assert {name: (out / name).read_text() for name in USERS} == USERS


@pytest.mark.parametrize("linked", [False, True])
def test_a_model_inside_the_folder_to_write_is_refused(tmp_path, model, linked):
    out = tmp_path / "out"
    export.export(str(model), "hf", out)
    export.export(str(model), "hf", out / "src")
    if linked:
        (tmp_path / "link").symlink_to(out)
    before = content(tmp_path)
    source = tmp_path / "link" / "src" if linked else out / "src"
    with pytest.raises(BortError, match="is inside out=") as error:
        export.export(str(source), "hf", out)
    assert "\n" not in str(error.value) and content(tmp_path) == before
    with pytest.raises(BortError, match="is inside model="):
        export.export(str(out), "hf", source / "deeper")
    assert content(tmp_path) == before


def test_only_what_bort_wrote_is_pushed(tmp_path, model, monkeypatch):
    out = tmp_path / "out"
    export.export(str(model), "hf", out)
    write(out, USERS)
    uploads = []

    class Api:
        def create_repo(self, name, exist_ok):
            pass

        def upload_folder(self, **given):
            uploads.append(given)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    export.push(out, "me/model")
    assert set(uploads[0]["allow_patterns"]) == content(out).keys() - USERS.keys()


def test_two_exports_onto_one_folder_do_not_mix(tmp_path, model, monkeypatch):
    """The second is refused while the first one writes, and nothing is left of its lock."""
    out, checked, lines = tmp_path / "out", export.check_form, []

    def slow(*arguments, **options):
        with pytest.raises(BortError, match="another process is writing to") as error:
            export.export(str(model), "hf", out)
        lines.append(str(error.value))
        return checked(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(export, "check_form", slow)
        with pytest.raises(BortError):  # the second one reaches the lock first by this patch
            with locks.lock_output(out):
                export.export(str(model), "hf", out)
        export.export(str(model), "hf", out)
    assert len(lines) == 1 and ownership.read_exported_names(out)
    assert os.listdir(tmp_path) == ["out"]


EDITORS = {
    "of an editor": {"editor.tabSize": 4},
    "with a job": {"job": "pretrain", "version": 3},
    "no object": [1],
}


@pytest.mark.parametrize("kind", EDITORS)
def test_a_folder_with_an_editors_settings_is_no_run(settings_of, tmp_path, monkeypatch, kind):
    """It is neither emptied nor is resume=false the advice."""
    project = write(tmp_path / "proj", {"settings.json": json.dumps(EDITORS[kind]), "a.tex": "x"})
    before = content(project)
    for resume in (True, False):
        with pytest.raises(BortError, match="holds files but no run of bort") as error:
            pretrain(replace(settings_of(), resume=resume), project)
        assert "resume" not in refused(error)
    assert content(project) == before


def test_a_failed_start_removes_its_own_files_only(settings_of, tmp_path, monkeypatch):
    """In a repository with hidden files alone, by an error and by Ctrl-C; empty parents stay."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    hidden = {".git/HEAD": "ref", ".env": "secret", ".git/objects/1": "blob"}
    repository = write(tmp_path / "empty" / "parent" / "repo", hidden)
    run = settings_of()
    corpus, _ = prepare(run)
    for stopped in (RuntimeError, KeyboardInterrupt):
        with monkeypatch.context() as patch:
            patch.setattr(
                "bort.training.trainer.MetricsCsv",
                lambda *_, stopped=stopped: (_ for _ in ()).throw(stopped),
            )
            with pytest.raises(stopped):
                train(run, repository, corpus, None)
            with pytest.raises(stopped):
                train(run, tmp_path / "mine" / "deep" / "run", corpus, None)
        assert content(repository) == hidden
        assert not (tmp_path / "mine").exists()
    (tmp_path / "there" / "run").mkdir(parents=True)
    with RunFolder(tmp_path / "there" / "run").lock(False):
        pass
    assert (tmp_path / "there" / "run").is_dir()  # the user made it


def test_another_programs_hydra_folder_is_not_overwritten(settings_of, tmp_path):
    project = write(tmp_path / "proj", {".hydra/config.yaml": "of another program"})
    with pytest.raises(BortError, match="holds files but no run of bort"):
        pretrain(settings_of(), project)
    assert content(project) == {".hydra/config.yaml": "of another program"}


def test_starting_again_does_not_remove_what_it_reads(settings_of, tmp_path):
    run = settings_of("trainer.max_steps=2")
    folder = tmp_path / "run"
    pretrain(run, folder)
    again = settings_of(
        "experiment=finetune", "task=docstrings", f"model={folder}", experiment="finetune"
    )
    for source in (folder, folder / "model"):
        with pytest.raises(
            BortError, match="lies in .*run, which resume=false would clear"
        ) as error:
            RunFolder(folder).check_settings(replace(again, model=str(source), resume=False))
        assert "\n" not in str(error.value)


def test_a_copy_of_a_checkpoint_is_the_users(settings_of, tmp_path):
    """It is neither counted among the newest two nor taken for a damaged one."""
    run = settings_of("trainer.max_steps=6", "checkpoint_every=1")
    corpus, _ = prepare(run)
    write(tmp_path / "run", {"checkpoints/step_best.ckpt": "mine"})
    train(run, tmp_path / "run", corpus, None)
    assert (tmp_path / "run" / "checkpoints" / "step_best.ckpt").read_text() == "mine"
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 3


def test_a_sweep_into_a_strangers_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project = write(tmp_path / "proj", {"summary.csv": "mine"})
    with pytest.raises(SystemExit):
        callback.OptimumCallback().on_multirun_start(composed("train", "hydra.sweep.dir=proj"))
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "proj holds files but no sweep of bort" in line
    assert content(project) == {"summary.csv": "mine"}
    write(project, {"multirun.yaml": "{}"})
    assert not callback.is_foreign(project)


def test_a_linked_lock_is_neither_followed_nor_emptied(settings_of, tmp_path):
    write(tmp_path, {"thesis.tex": "years"})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(BortError, match="lock is a link") as error:
        pretrain(settings_of(), folder)
    assert "\n" not in str(error.value)
    assert (tmp_path / "thesis.tex").read_text() == "years" and (folder / ".lock").is_symlink()


def answer(*words: str) -> None:
    predict(parse_command(PredictConfig, words))


@pytest.fixture
def asked(tmp_path, model) -> list[str]:
    write(tmp_path, {"texts.txt": "the <mask> of line\n"})
    return [f"model={model}", f"input={tmp_path / 'texts.txt'}"]


def test_a_device_or_pipe_gets_the_answers(tmp_path, asked):
    pipe, texts = tmp_path / "pipe", []
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: texts.append(pipe.read_text()))
    thread.start()
    answer(*asked, f"out={pipe}")
    thread.join(10)
    assert "words" in json.loads(texts[0]) and stat.S_ISFIFO(pipe.stat().st_mode)
    device = os.stat("/dev/null")
    answer(*asked, "out=/dev/null")
    assert os.path.samestat(os.stat("/dev/null"), device)


def test_standard_output_goes_where_it_stands(tmp_path):
    """Behind what was written before, also when it is a file; the name is no file to replace."""
    code = (
        "import os, pathlib, bort.files.writing; os.write(1, b'first ')\n"
        "with bort.files.writing.open_output(pathlib.Path('/dev/stdout')) as file:\n"
        "    file.write(b'second ')\n"
        "os.write(1, b'third')"
    )
    with (tmp_path / "out.txt").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=60)
    assert (tmp_path / "out.txt").read_text() == "first second third"
    assert os.path.islink("/dev/stdout") or not os.path.isfile("/dev/stdout")


def test_a_file_that_is_read_is_not_written_to(tmp_path, model, asked):
    (tmp_path / "link.txt").symlink_to(tmp_path / "texts.txt")
    os.link(tmp_path / "texts.txt", tmp_path / "hard.txt")
    before = content(tmp_path), (model / "config.json").read_text()
    for name in ("texts.txt", "link.txt", "hard.txt", model / "config.json"):
        with pytest.raises(BortError, match="is read from") as error:
            answer(*asked, f"out={tmp_path / name}")
        assert "\n" not in str(error.value)
    assert before == (content(tmp_path), (model / "config.json").read_text())
    answer(*asked, f"out={model / 'answers.jsonl'}")  # beside the model is no matter, twice
    answer(*asked, f"out={model / 'answers.jsonl'}")
    (model / "answers.jsonl").unlink()


def test_a_page_that_bort_did_not_write_stays(tmp_path, monkeypatch):
    """Beside a benchmark's table, and where bort.report writes without being told where."""
    write(tmp_path, {"t.html": "<html>mine", "report.html": "<html>mine", "ours.txt": ""})
    settings = BenchmarkConfig(
        grid=NO_GRID, archs=["tiny"], engines=["measured"], out=str(tmp_path / "t.csv")
    )
    monkeypatch.setattr(benchmark, "compare", lambda _: pytest.fail("work before the refusal"))
    with pytest.raises(BortError, match="t.html, beside out=.*is no page of bort") as error:
        benchmark.run(settings)
    assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BortError, match="report.html is here and no page of bort") as error:
        report.main(parse_command(report.ReportConfig, ["runs/x"]))
    refused(error)
    assert (tmp_path / "t.html").read_text() == (tmp_path / "report.html").read_text()
    html.write_page(tmp_path / "t.html", "ours", ["<p>x"])
    monkeypatch.setattr(benchmark, "compare", lambda _: ["rows"])
    assert benchmark.run(settings) == ["rows"]


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022])
def test_modes_are_what_the_umask_leaves(settings_of, tmp_path, mask):
    """Of all files of a run, an export and answers; folders likewise."""
    with umask(mask):
        folder = tmp_path / "run"
        pretrain(settings_of("trainer.max_steps=1"), folder, {"config.yaml": "x: 1\n"})
        report.write_page(folder)
        export.export(str(folder), "hf", tmp_path / "out")
        write(tmp_path, {"texts.txt": "the <mask> of line\n"})
        words = [f"model={folder}", f"input={tmp_path / 'texts.txt'}"]
        answer(*words, f"out={tmp_path / 'answers.jsonl'}")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert len(modes) > 20
    expected = {True: 0o777 & ~mask, False: 0o666 & ~mask}
    assert not {p: oct(mode) for p, mode in modes.items() if mode != expected[p.is_dir()]}
