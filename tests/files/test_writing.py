"""Whole-or-absent writes: what is replaced, what a kill leaves, what links lead to."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from files_helpers import NO_GRID, USERS, content, exported, refused, write

from bort.benchmark import run as benchmark
from bort.benchmark.settings import BenchmarkConfig
from bort.errors import BortError
from bort.export import run as export
from bort.files import ownership
from bort.files import writing as files
from bort.files.writing import open_output, replace_file, replace_folder, write_json
from bort.runs.folder import RunFolder


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
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "web"):
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


def test_a_linked_file_is_followed(tmp_path):
    write(tmp_path, {"disk/real.json": "{}"})
    (tmp_path / "link.json").symlink_to("disk/real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert os.readlink(tmp_path / "link.json") == "disk/real.json"
    assert json.loads((tmp_path / "disk" / "real.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path / "disk") == ["real.json"]


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


KILLED = """
import os, pathlib, sys
from bort.files.writing import replace_file, replace_folder
folder = pathlib.Path(sys.argv[1])
with replace_file(folder / "summary.json") as file, replace_folder(folder / "model") as fresh:
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
    with open_output(tmp_path / "x"), replace_file(tmp_path / "y"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".summary.json.abcdefgh", "metrics.csv", "x", "y"]
