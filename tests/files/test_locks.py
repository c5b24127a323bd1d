"""Locks of folders: held, stale, or no locks at all; reserved names."""

import os
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from files_helpers import composed, write
from hydra.core.utils import setup_globals

from bort.errors import BortError
from bort.files import locks
from bort.search import callback


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
