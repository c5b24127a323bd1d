"""Checkpoints are whole or absent: digests, damage, a full disk, and which ones are kept."""

import errno
import gc
import hashlib
import os
import signal
import stat
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from tiny_runs import log_lines

from bort.console import calling_from_python
from bort.errors import BortError
from bort.files import writing
from bort.files.writing import replace_file, replace_folder, write_json
from bort.pretraining.recipe import prepare, pretrain, train
from bort.runs.folder import RunFolder
from bort.training.checkpoint import AtomicCheckpointIO, Checkpoints, find_newest_whole

IO = AtomicCheckpointIO()


def checkpoint(step: int) -> dict:
    return {"global_step": step, "state_dict": {"weight": torch.full((50, 50), float(step))}}


def fill(folder: Path, *steps: int) -> list[Path]:
    for step in steps:
        IO.save_checkpoint(checkpoint(step), folder / f"step_{step:08d}.ckpt")
    return sorted(folder.glob("*.ckpt"))


def harm(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "flipped byte":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: {"half": len(content) // 2, "empty": 0}.get(kind, len(content))])


# ------------------------------------------------------------------------------------ saving


def test_name_holds_the_digest_and_the_safe_loader_reads(tmp_path):
    (path,) = fill(tmp_path / "new", 7)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"step_00000007-{digest[:16]}.ckpt"
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.")  # case C1
    loaded = IO.load_checkpoint(path)
    assert loaded["global_step"] == 7
    assert torch.equal(loaded["state_dict"]["weight"], checkpoint(7)["state_dict"]["weight"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    IO.remove_checkpoint(path)
    IO.remove_checkpoint(path)
    assert not list((tmp_path / "new").iterdir())


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"x": Harm()}, tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        IO.load_checkpoint(tmp_path / "bad.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_the_final_name_comes_last(tmp_path, monkeypatch):
    """Written beside the target, flushed to the disk, renamed, then the folder flushed."""
    events = []
    fsync, rename = os.fsync, os.replace

    def watched_fsync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append((f"fsync {kind}", sorted(p.suffix for p in tmp_path.iterdir())))
        fsync(descriptor)

    def watched_replace(source, target):
        assert Path(source).parent == Path(target).parent
        content = Path(source).read_bytes()
        assert hashlib.sha256(content).hexdigest().startswith(target.stem.split("-")[-1])
        events.append(("rename", target.suffix))
        rename(source, target)

    monkeypatch.setattr(writing.os, "fsync", watched_fsync)
    monkeypatch.setattr(writing.os, "replace", watched_replace)
    (path,) = fill(tmp_path, 1)
    assert [name for name, _ in events] == ["fsync file", "rename", "fsync folder"]
    assert ".ckpt" not in events[0][1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left for {path}; free some and repeat the same command"),
        (errno.EDQUOT, "no space left for {path}; free some and repeat the same command"),
        (errno.EACCES, "{path} cannot be written: Permission denied"),
    ],
)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_is_one_line(tmp_path, monkeypatch, function, number, message):
    (old,) = fill(tmp_path, 1)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing.os, function, fail)
    with pytest.raises(BortError) as error:
        IO.save_checkpoint(checkpoint(2), tmp_path / "step_00000002.ckpt")
    text = str(error.value)
    path = next(word.rstrip(";") for word in text.split() if "step_" in word)
    assert text == message.format(path=path) and path.startswith(f"{tmp_path}/step_00000002-")
    assert list(tmp_path.iterdir()) == [old]


def test_a_place_that_is_none_is_one_line(tmp_path):
    """Before the work: the block is never entered, nothing is made."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    long = tmp_path / ("a" * 300)
    cases = [
        (tmp_path / "file" / "x", f"file/x cannot be written: {tmp_path / 'file'} is a file"),
        (tmp_path / "file" / "new" / "x", "cannot be written: .*file is a file"),
        (long, "cannot be written: File name too long"),
        (Path("/proc/x"), "/proc/x cannot be written: "),
    ]
    for write in (replace_file, replace_folder):
        for path, message in cases:
            with pytest.raises(BortError, match=message), write(path):
                pytest.fail("work for nothing")
    with pytest.raises(BortError, match="folder is a folder; give the name of a file"):
        write_json(tmp_path / "folder", {"x": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    """The error of the kernel itself, when a buffer is written out."""
    fdopen = os.fdopen

    def full(descriptor, mode):
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
        return fdopen(descriptor, mode)

    monkeypatch.setattr(writing.os, "fdopen", full)
    with pytest.raises(BortError, match="no space left for"):
        IO.save_checkpoint(checkpoint(2), tmp_path / "step_00000002.ckpt")
    with pytest.raises(BortError, match="no space left for"):
        write_json(tmp_path / "summary.json", {"x": 1})
    assert not list(tmp_path.iterdir())


def test_other_errors_of_a_write_keep_their_trace(tmp_path):
    """A bug is no mistake of the user; nothing is left of the file all the same."""
    for error in (ValueError("bug"), OSError(errno.EIO, "broken disk")):
        with pytest.raises(type(error)) as raised, replace_file(tmp_path / "x") as file:
            file.write(b"half")
            raise error
        assert raised.value is error
    assert not list(tmp_path.iterdir())


def test_strict_json(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1, "path": Path("b")})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1,\n  "path": "b"\n}\n'
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert "b" in (tmp_path / "x.json").read_text()


# ------------------------------------------------------------------------------------ damage (R2)


@pytest.mark.parametrize("kind", ["half", "empty", "flipped byte"])
def test_newest_whole_one(tmp_path, kind):
    paths, lines = fill(tmp_path, 5, 20, 100), log_lines()
    assert find_newest_whole(tmp_path) == paths[2] and not lines
    harm(paths[2], kind)
    assert find_newest_whole(tmp_path) == paths[1]
    assert len(lines) == 1 and str(paths[2]) in lines[0] and "damaged" in lines[0]
    assert not paths[2].exists()  # else its step would pass for saved
    harm(paths[1], kind)
    assert find_newest_whole(tmp_path) == paths[0]
    fill(tmp_path, 20, 100)
    for path in tmp_path.iterdir():
        harm(path, kind)
    with pytest.raises(BortError) as error:
        find_newest_whole(tmp_path)
    text = str(error.value)
    assert text.startswith(f"{tmp_path} holds no whole checkpoint (3 damaged); ")
    assert "resume=false" in text and "\n" not in text


def test_no_checkpoint_yet(tmp_path):
    assert find_newest_whole(tmp_path / "checkpoints") is None
    (tmp_path / ".step_00000003-0123456789abcdef.ckpt.x1y2").write_bytes(b"cut by a kill")
    assert find_newest_whole(tmp_path) is None


@pytest.fixture(scope="module")
def stopped(settings_of, tmp_path_factory):
    """A run of 8 steps that broke off after checkpoints at 2, 4 (gone), 6; and its inputs."""
    run = settings_of("trainer.max_steps=8", "checkpoint_every=2", "trainer.val_check_interval=3")
    corpus, teacher = prepare(run)
    folder = tmp_path_factory.mktemp("stopped")
    crash = {"crash": {"_target_": f"{__name__}.Crash"}}
    with pytest.raises(RuntimeError, match="crash"):
        train(replace(run, callbacks=crash), folder / "run", corpus, teacher)
    train(run, folder / "undisturbed", corpus, teacher)
    return run, corpus, folder


class Crash(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 7:
            raise RuntimeError("crash")


@pytest.mark.parametrize("kind", ["half", "empty", "flipped byte"])
def test_a_run_goes_on_from_the_newest_whole_one(stopped, tmp_path, kind):
    run, corpus, folder = stopped
    place = copy(folder / "run", tmp_path / "run")
    paths = sorted((place / "checkpoints").iterdir())
    assert [path.name[:13] for path in paths] == ["step_00000004", "step_00000006"]
    harm(paths[1], kind)
    lines = log_lines()
    train(run, place, corpus, None)
    assert len([line for line in lines if "is damaged" in line]) == 1
    assert [line for line in lines if "resumes after step 4 " in line]
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (place / name).read_bytes() == (folder / "undisturbed" / name).read_bytes()


def test_a_run_without_a_whole_one_is_one_line(stopped, tmp_path):
    run, corpus, folder = stopped
    place = copy(folder / "run", tmp_path / "run")
    for path in (place / "checkpoints").iterdir():
        harm(path, "half")
    before = sorted(place.rglob("*"))
    with pytest.raises(BortError, match=r"holds no whole checkpoint \(2 damaged\)"):
        train(run, place, corpus, None)
    assert sorted(place.rglob("*")) == before and RunFolder(place).find_summary() is None
    train(replace(run, resume=False), place, corpus, None)
    assert RunFolder(place).find_summary()["steps"] == 8


def test_a_checkpoint_of_another_run_is_refused(stopped, tmp_path):
    """Of the same shape, but of another seed, or of other text; nothing is trained or lost."""
    run, corpus, folder = stopped
    crash = {"crash": {"_target_": f"{__name__}.Crash"}}
    other = replace(corpus, info=replace(corpus.info, digest="another text"))
    for name, seed, text in (("seed", 1, corpus), ("text", run.seed, other)):
        place = tmp_path / name
        with pytest.raises(RuntimeError, match="crash"):
            train(replace(run, callbacks=crash, seed=seed), place, text, None)
        foreign = max((folder / "run" / "checkpoints").iterdir())
        for path in (place / "checkpoints").iterdir():
            path.unlink()
        (place / "checkpoints" / foreign.name).write_bytes(foreign.read_bytes())
        with pytest.raises(BortError, match=f"{foreign.name} is a checkpoint of another run; move"):
            train(replace(run, seed=seed), place, text, None)
        assert [path.name for path in (place / "checkpoints").iterdir()] == [foreign.name]


def copy(source: Path, target: Path) -> Path:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


def test_a_full_disk_in_training_leaves_the_earlier_one(settings_of, tmp_path, monkeypatch):
    run = settings_of("trainer.max_steps=8", "checkpoint_every=3")
    corpus, _ = prepare(run)
    save = AtomicCheckpointIO.save_checkpoint

    def full(self, content, path, storage_options=None):
        if content["global_step"] == 6:
            with replace_file(Path(path)) as file:
                file.write(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device")
        save(self, content, path)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(BortError, match="no space left for .*step_00000006"):
        train(run, tmp_path / "run", corpus, None)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    lines = log_lines()
    assert path.name.startswith("step_00000003") and find_newest_whole(path.parent) == path
    assert not lines


# ------------------------------------------------------------------------------------ keeping


class Loops:
    """As much of a trainer as the callback asks for."""

    def __init__(self):
        self.global_step, self.is_global_zero = 0, True
        self.state = SimpleNamespace(fn="fit")
        self.accumulates = self.validates = self.cut = False
        self.epoch_loop = SimpleNamespace(
            _should_accumulate=lambda: self.accumulates,
            _should_check_val_fx=lambda fetcher: self.validates,
        )
        self.fit_loop = SimpleNamespace(epoch_loop=self.epoch_loop, _data_fetcher=None)

    def save_checkpoint(self, path):
        if self.cut:
            raise OSError("cut")
        IO.save_checkpoint(checkpoint(self.global_step), path)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:13]) for path in folder.glob("*.ckpt"))


def step(callback: Checkpoints, trainer: Loops, number: int) -> None:
    trainer.global_step = number
    callback.on_train_batch_end(trainer, None, None, None, 0)


def test_the_newest_two_stay(tmp_path):
    callback, trainer = Checkpoints(tmp_path, every=10), Loops()
    for number in range(1, 41):
        step(callback, trainer, number)
        expected = list(range(10, number + 1, 10))[-2:]
        assert steps(tmp_path) == expected
    trainer.cut = True
    with pytest.raises(OSError):
        step(callback, trainer, 50)
    assert steps(tmp_path) == [30, 40]  # the old ones go only when the new one is complete
    trainer.cut = False
    callback.on_train_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert steps(tmp_path) == [40, 50]


def test_a_kill_between_saving_and_removing_leaves_no_third(settings_of, tmp_path):
    """The run that resumes after its last step trains no more, and removes what was left."""
    run, folder = settings_of("checkpoint_every=2"), tmp_path / "run"
    pretrain(run, folder)
    before = steps(folder / "checkpoints")
    assert len(before) == 2
    fill(folder / "checkpoints", 1)
    (folder / "summary.json").unlink()
    pretrain(run, folder)
    assert steps(folder / "checkpoints") == before


def test_a_late_process_of_several_saves_as_the_first_one_does(tmp_path):
    """Saving is joint work: one that took the first one's file for its own would never join in."""
    callback, trainer, calls = Checkpoints(tmp_path, every=10), Loops(), []
    fill(tmp_path, 10)
    trainer.save_checkpoint = calls.append
    step(callback, trainer, 10)
    assert [path.name for path in calls] == ["step_00000010.ckpt"]


def test_half_a_step_is_never_saved(tmp_path):
    callback, trainer = Checkpoints(tmp_path, every=1), Loops()
    trainer.accumulates = True
    callback.signal = signal.SIGTERM
    step(callback, trainer, 3)
    assert steps(tmp_path) == []
    trainer.accumulates = False
    with pytest.raises(SystemExit) as stopped:
        step(callback, trainer, 4)
    assert stopped.value.code == 143 and steps(tmp_path) == [4]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_validation_that_is_due_comes_before_the_stop(tmp_path, number, code):
    callback, trainer = Checkpoints(tmp_path, every=100), Loops()
    callback.answer_signal(number, None)
    trainer.validates = True
    step(callback, trainer, 5)
    assert steps(tmp_path) == []
    with pytest.raises(SystemExit) as stopped:
        callback.on_validation_end(trainer, None)
    assert stopped.value.code == code and steps(tmp_path) == [5]


def test_a_second_signal_ends_at_once(tmp_path, monkeypatch, capsys):
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    callback = Checkpoints(tmp_path, every=100)
    callback.answer_signal(signal.SIGINT, None)
    assert not codes and "saving a checkpoint" in capsys.readouterr().err
    callback.answer_signal(signal.SIGINT, None)
    assert codes == [130] and "at once" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_leaves_the_program_that_called_bort(tmp_path, monkeypatch, number, code):
    monkeypatch.setattr("os._exit", lambda code: pytest.fail("ended the program"))
    callback = Checkpoints(tmp_path, every=100)
    with calling_from_python():
        callback.answer_signal(number, None)
        with pytest.raises(SystemExit) as stopped:
            callback.answer_signal(number, None)
    assert stopped.value.code == code


def test_a_run_that_ended_leaves_nothing_behind(settings_of, tmp_path):
    """Neither its handlers of signals nor, through them, its models: a sweep trains hundreds."""
    trainers = []
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.MonkeyPatch.context() as patch:
        init = pl.Trainer.__init__

        def watched(self, *args, **options):
            trainers.append(weakref.ref(self))
            init(self, *args, **options)

        watched.__wrapped__ = init
        patch.setattr(pl.Trainer, "__init__", watched)
        pretrain(settings_of(), tmp_path / "run")
    gc.collect()
    assert trainers and not [trainer for trainer in trainers if trainer() is not None]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
