"""Nothing of the user's is lost: what bort replaces and removes, and what it leaves alone."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from bort import html, predict, report
from bort.benchmark import run as benchmark
from bort.config.command_line import parse_command
from bort.config.compose import CONF
from bort.config.search import BenchmarkConfig, GridConfig
from bort.errors import BortError
from bort.export import run as export
from bort.files import locks, ownership, run_files
from bort.files import writing as files
from bort.files.writing import replacing, replacing_folder, write_json, writing
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_model
from bort.models.huggingface import save_model
from bort.pretraining.recipe import prepare, pretrain, train
from bort.runs.folder import RunFolder
from bort.search import callback
from bort.text.tokenizer import train_tokenizer


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text, links by where they lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_text("latin-1")
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def write(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def left(target: Path, kind: str, process: int) -> Path:
    """The name that a process of this number gives to a temporary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership.os, "getpid", lambda: process)
        return ownership.temporary(target, kind)


def refused(error) -> str:
    line = str(error.value)
    assert "\n" not in line and len(line) <= 200
    return line


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# ------------------------------------------------------------------------------------ folders


def exported(folder: Path, texts: dict[str, str]) -> Path:
    """Write an export of these files as bort.export does."""
    with replacing_folder(folder) as fresh:
        write(fresh, texts)
        names = [*texts, "export.json"]
        write_json(fresh / "export.json", ownership.export_record(names, {"format": "hf"}))
    return folder


NO_GRID = GridConfig([], [], [], [], [], [])
USERS = {"serve.py": "serve", "notes/plan.md": "plan", ".env": "secret"}


def test_what_the_user_added_to_an_export_stays(tmp_path):
    """Of the old export, a file that the new one lacks goes; the user's files and folders stay."""
    out = exported(tmp_path / "out", {"model.onnx": "1", "predict.py": "1"})
    write(out, USERS)
    (out / "latest").symlink_to("model.onnx")
    exported(out, {"model.safetensors": "2"})
    texts = content(out)
    assert "made_by" in texts.pop("export.json")
    assert texts == {"model.safetensors": "2", "latest": "model.onnx", **USERS}
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_of_the_user_is_not_replaced_by_a_new_one(tmp_path):
    out = write(exported(tmp_path / "out", {"model.safetensors": "1"}), {"predict.py": "mine"})
    before = content(out)
    with pytest.raises(BortError, match="out holds a predict.py that bort did not write") as error:
        exported(out, {"predict.py": "2"})
    refused(error)
    assert content(out) == before and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_replacement_that_is_killed_anywhere_is_brought_to_its_end(tmp_path, dead, stop):
    """Killed before its n-th rename or removal; the next command finds one whole export."""
    out = write(exported(tmp_path / "out", {"a": "1", "card": "1"}), USERS)

    class Killed(BaseException):
        pass

    calls = []

    def counted(function):
        def call(self, *arguments, **options):
            calls.append(self)
            if len(calls) == stop:
                raise Killed
            return function(self, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership.os, "getpid", lambda: dead)
        for name in ("rename", "unlink", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(files.os, "replace", counted(os.replace))
        # a killed process puts nothing back
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(files.os.path, "lexists", os.path.lexists)
        try:
            exported(out, {"a": "2", "card": "2"})
        except Killed:
            pass
    ownership.settle(tmp_path)
    assert os.listdir(tmp_path) == ["out"]
    texts = content(out)
    assert texts["a"] == texts["card"]  # never new weights under an old card
    assert {name: texts[name] for name in USERS} == USERS


def test_an_old_folder_that_is_the_only_copy_gets_its_name_back(tmp_path, dead):
    out = exported(tmp_path / "out", {"a": "1"})
    before = content(out)
    out.rename(left(out, "old", dead))
    left(out, "new", dead).mkdir()
    ownership.settle(tmp_path)
    assert content(out) == before and os.listdir(tmp_path) == ["out"]


def test_temporaries_of_others_are_left_alone(tmp_path, dead):
    """Of the user, of living processes and of other machines."""
    digits = "0123456789abcdef"
    here = ownership.platform.node()
    names = [".web.old", ".web.new", "web.old", ".web.part", f".web.old-{dead}@{here}"]
    names += [f".web.old-{os.getpid()}-{digits}@{here}", f".web.old-{dead}-{digits}@elsewhere"]
    for name in names:
        write(tmp_path / name, {"thesis.tex": "years"})
    write(tmp_path, {".web.abc": "mine", f".web.part-{os.getpid()}-{digits}@{here}": "half"})
    before = content(tmp_path)
    exported(tmp_path / "web", {"a": "1"})
    exported(tmp_path / "web", {"a": "2"})
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "web"):
        raise RuntimeError
    after = content(tmp_path)
    assert {name: text for name, text in after.items() if not name.startswith("web/")} == before
    assert after["web/a"] == "2"


def test_an_interrupted_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = exported(tmp_path / "out", {"a": "1"})
    before, rename = content(out), Path.rename

    def interrupted(self, target):
        if ".new-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(out, {"a": "2"})
    assert content(out) == before and os.listdir(tmp_path) == ["out"]


def test_a_linked_folder_is_followed(tmp_path):
    exported(tmp_path / "disk" / "real", {"a": "1"})
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    exported(tmp_path / "out", {"a": "2"})
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "real" / "a").read_text() == "2"


# ------------------------------------------------------------------------------------ exports


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    tokenizer = train_tokenizer([f"the cat of line {k}" for k in range(40)], 280)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=280, positions=32)
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder


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
            with locks.output(out):
                export.export(str(model), "hf", out)
        export.export(str(model), "hf", out)
    assert len(lines) == 1 and ownership.exported_names(out)
    assert os.listdir(tmp_path) == ["out"]


# ------------------------------------------------------------------------------------ run folders


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


def test_every_file_of_every_job_is_known(settings_of, tmp_path):
    """Or resume=false would leave it: a finished run is cleared to the last file."""
    folder = tmp_path / "run"
    record = dict.fromkeys(("config.yaml", "overrides.yaml", "hydra.yaml"), "[]\n")
    pretrain(settings_of("trainer.max_steps=2"), folder, record)
    report.write(folder)
    assert len(content(folder)) >= 14 - 4
    write(folder, {"model/notes.md": "mine", "a.txt": "mine", "checkpoints/best.ckpt": "mine"})
    run_files.clear_run(folder)
    assert content(folder) == {
        "model/notes.md": "mine",
        "a.txt": "mine",
        "checkpoints/best.ckpt": "mine",
    }
    assert not (folder / ".hydra").exists()


# ------------------------------------------------------------------------------------ locks


def test_a_linked_lock_is_neither_followed_nor_emptied(settings_of, tmp_path):
    write(tmp_path, {"thesis.tex": "years"})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(BortError, match="lock is a link") as error:
        pretrain(settings_of(), folder)
    assert "\n" not in str(error.value)
    assert (tmp_path / "thesis.tex").read_text() == "years" and (folder / ".lock").is_symlink()


def test_the_lock_of_a_killed_process_goes_and_a_held_one_stays(tmp_path):
    path = tmp_path / ".lock"
    locks.remove_stale(path)
    assert not path.exists()
    path.touch()
    locks.remove_stale(path)
    assert not path.exists()
    with locks.lock(path, "busy"):
        locks.remove_stale(path)
        assert path.exists()
    path.write_text("of the user")
    locks.remove_stale(path)
    assert path.read_text() == "of the user"


@pytest.mark.parametrize("kind", ["pipe", "folder", "text"])
def test_a_lock_that_is_no_lock(tmp_path, kind):
    path = tmp_path / ".lock"
    {"pipe": os.mkfifo, "folder": Path.mkdir}.get(kind, lambda path: path.write_text("x"))(path)
    if kind == "text":  # held, but neither emptied nor removed
        with locks.lock(path, "busy"):
            pass
        assert path.read_text() == "x"
        return
    with pytest.raises(BortError), locks.lock(path, "busy"):
        pytest.fail("held")
    assert path.exists()


def test_the_user_is_told_of_a_busy_folder(tmp_path):
    with locks.lock(tmp_path / "x.lock", "busy"):
        with pytest.raises(BortError, match="^busy$"), locks.lock(tmp_path / "x.lock", "busy"):
            pytest.fail("held twice")
        told = threading.Event()
        thread = threading.Thread(target=_wait, args=(tmp_path / "x.lock", told.set))
        thread.start()
        assert told.wait(10)
    thread.join(10)
    assert not thread.is_alive() and not list(tmp_path.iterdir())


def _wait(path: Path, told) -> None:
    with locks.lock(path, "busy", told):
        pass


def test_two_runs_of_one_second_have_two_folders(tmp_path):
    """The folder that nothing was written to goes again, with the parents made for it."""
    place = tmp_path / "runs" / "mlm"
    assert locks.reserve(place / "12-00-00") and not locks.reserve(place / "12-00-00")
    assert locks.reserve(place / "12-00-00-2")
    write(place / "12-00-00-2", {"metrics.csv": ""})
    locks.release()
    assert [path.name for path in place.iterdir()] == ["12-00-00-2"]
    assert locks.reserve(tmp_path / "other" / "x")
    locks.release()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("word", "refused"),
    [("name=a,b", 1), ("name=choice(a,b)", 1), ("name=r_${seed}", 1), ("name=${oc.env:X}", 0)],
)
def test_jobs_of_a_sweep_have_no_names_of_their_own(tmp_path, monkeypatch, capsys, word, refused):
    """Each would be put in a sweep's folder of its own, where nobody gathers it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("X", "x")
    cfg = composed("train")
    cfg.hydra.overrides.task.append(word)
    with pytest.raises(SystemExit) if refused else nullcontext():
        callback.OptimumCallback().on_multirun_start(cfg)
    locks.release()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == refused and all(f"{word}: name= names the whole" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_sweeps_of_one_second_have_two_folders(tmp_path, monkeypatch):
    """Also a search; the jobs of each are told its name. A name of the user's is left alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bort.search.callback.atexit.register", lambda *_: None)
    try:
        for program, place in (("train", "runs/kd_pretrain"), ("search", "runs/search")):
            for name in ("12-00-00", "12-00-00-2", "12-00-00-3"):
                cfg = composed(program)
                callback.OptimumCallback().on_multirun_start(cfg)
                assert cfg.hydra.sweep.dir == f"{place}/{name}" and Path(place, name).is_dir()
                assert cfg.hydra.overrides.task == ["seed=0", f"name={name}"]
            for words in (["name=mine"], ["dry_run=true"]):
                cfg = composed(program, *words)
                callback.OptimumCallback().on_multirun_start(cfg)
                assert cfg.hydra.overrides.task == ["seed=0", *words]
    finally:
        setup_globals()
        locks.release()
    assert not (tmp_path / "runs").exists()


def composed(program: str, *words: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(program, ["seed=0", *words], return_hydra_config=True)
    OmegaConf.register_new_resolver("now", lambda _: "12-00-00", replace=True)
    return cfg


# ------------------------------------------------------------------------------------ outputs


def answer(*words: str) -> None:
    predict.main(parse_command(predict.PredictConfig, words))


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
        "with bort.files.writing.writing(pathlib.Path('/dev/stdout')) as file:\n"
        "    file.write(b'second ')\n"
        "os.write(1, b'third')"
    )
    with (tmp_path / "out.txt").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=60)
    assert (tmp_path / "out.txt").read_text() == "first second third"
    assert os.path.islink("/dev/stdout") or not os.path.isfile("/dev/stdout")


@pytest.mark.parametrize("name", ["pipe", "/dev/null"])
def test_other_commands_refuse_devices(tmp_path, model, name):
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    for work in (
        lambda: files.check_writable(path),
        lambda: write_json(path, {}),
        lambda: benchmark.run(BenchmarkConfig(grid=NO_GRID, out=str(path))),
        lambda: export.export(str(model), "hf", path),
    ):
        with pytest.raises(BortError) as error:
            work()
        refused(error)
    assert not path.is_file()


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


def test_a_linked_file_is_followed(tmp_path):
    write(tmp_path, {"disk/real.json": "{}"})
    (tmp_path / "link.json").symlink_to("disk/real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert os.readlink(tmp_path / "link.json") == "disk/real.json"
    assert json.loads((tmp_path / "disk" / "real.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path / "disk") == ["real.json"]


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
    html.write(tmp_path / "t.html", "ours", ["<p>x"])
    monkeypatch.setattr(benchmark, "compare", lambda _: ["rows"])
    assert benchmark.run(settings) == ["rows"]


# ------------------------------------------------------------------------------------ modes


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022])
def test_modes_are_what_the_umask_leaves(settings_of, tmp_path, mask):
    """Of all files of a run, an export and answers; folders likewise."""
    with umask(mask):
        folder = tmp_path / "run"
        pretrain(settings_of("trainer.max_steps=1"), folder, {"config.yaml": "x: 1\n"})
        report.write(folder)
        export.export(str(folder), "hf", tmp_path / "out")
        write(tmp_path, {"texts.txt": "the <mask> of line\n"})
        words = [f"model={folder}", f"input={tmp_path / 'texts.txt'}"]
        answer(*words, f"out={tmp_path / 'answers.jsonl'}")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert len(modes) > 20
    expected = {True: 0o777 & ~mask, False: 0o666 & ~mask}
    assert not {p: oct(mode) for p, mode in modes.items() if mode != expected[p.is_dir()]}


def test_the_mode_of_what_is_replaced_stays(tmp_path):
    path = tmp_path / "a.json"
    for mode in (0o600, 0o640, 0o666):
        path.write_text("{}")
        path.chmod(mode)
        write_json(path, {"a": 1})
        assert stat.S_IMODE(path.stat().st_mode) == mode
    out = exported(tmp_path / "out", {"model.safetensors": "1"})
    out.chmod(0o750)
    (out / "model.safetensors").chmod(0o600)
    exported(out, {"model.safetensors": "2", "predict.py": "2"})
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (out, out / "model.safetensors")]
    assert modes == [0o750, 0o600]


# ------------------------------------------------------------------------------------ kills


KILLED = """
import os, pathlib, sys
from bort.files.writing import replacing, replacing_folder
folder = pathlib.Path(sys.argv[1])
with replacing(folder / "summary.json") as file, replacing_folder(folder / "model") as fresh:
    file.write(b"half")
    (fresh / "model.safetensors").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_next_command_removes_what_a_kill_has_left(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=-1, stdout=-1, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(os.listdir(tmp_path)) == 2
    write(tmp_path, {".summary.json.abcdefgh": "of somebody else", "metrics.csv": ""})
    with RunFolder(tmp_path).lock(False):
        assert sorted(os.listdir(tmp_path)) == [".lock", ".summary.json.abcdefgh", "metrics.csv"]
    with writing(tmp_path / "x"), replacing(tmp_path / "y"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".summary.json.abcdefgh", "metrics.csv", "x", "y"]
