"""States of the teacher on the disk: resumed after a stop, made again where they are damaged."""

from dataclasses import replace

import numpy as np
import pytest

from bort.pretraining.datamodule import TrainBatches, ValBatches
from bort.pretraining.recipe import prepare
from bort.teachers.states import TeacherStates, WithTeacher


def test_teacher_states_go_on_after_a_stop(search_of, tmp_path, monkeypatch):
    run = search_of()
    corpus, teacher = prepare(run)
    monkeypatch.setattr(TeacherStates, "EVERY", 4)
    batches, whole = TrainBatches(corpus, run.data, 5), TeacherStates(tmp_path / "a", 32)
    assert whole.build(teacher, batches, 11, lambda *_: None) == 11

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    cut = TeacherStates(tmp_path / "b", 32)
    with pytest.raises(KeyboardInterrupt):
        cut.build(teacher, batches, 11, stop)
    again = TeacherStates(tmp_path / "b", 32)
    assert len(again) == 4
    assert again.build(teacher, batches, 11, lambda *_: None) == 7
    assert (tmp_path / "a.f16").read_bytes() == (tmp_path / "b.f16").read_bytes()
    assert again.build(teacher, batches, 9, lambda *_: None) == 0
    assert all(np.array_equal(whole[k], again[k]) for k in range(11))


@pytest.mark.parametrize("harm", ["zeros", "flipped bit", "cut", "index"])
def test_damaged_teacher_states_are_made_again(search_of, tmp_path, monkeypatch, capsys, harm):
    run = search_of()
    corpus, teacher = prepare(run)
    batches = TrainBatches(corpus, run.data, 5)
    TeacherStates(tmp_path / "a", 32).build(teacher, batches, 6, lambda *_: None)
    path = tmp_path / "a.f16"
    content, middle = path.read_bytes(), path.stat().st_size // 2
    if harm == "zeros":
        path.write_bytes(content[:middle] + bytes(len(content) - middle))
    elif harm == "flipped bit":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm == "cut":
        path.write_bytes(content[:middle])
    else:
        index = path.with_suffix(".npy")
        index.write_bytes(index.read_bytes()[:-30] + bytes(30))
    again = TeacherStates(tmp_path / "a", 32)
    assert "are damaged; they are made again" in capsys.readouterr().out
    assert again.build(teacher, batches, 6, lambda *_: None) == (6 if harm == "index" else 3)
    assert path.read_bytes() == content
    TeacherStates(tmp_path / "a", 32)
    assert not capsys.readouterr().out


def test_every_other_batch_carries_its_own_states(search_of, tmp_path):
    run = search_of()
    corpus, teacher = prepare(run)
    batches, states = (
        ValBatches(corpus, replace(run.data, batch_size=1)),
        TeacherStates(tmp_path / "a", 32),
    )
    count = len(batches)
    states.build(teacher, batches, count, lambda *_: None)
    looked = WithTeacher(batches, states, every=2)
    assert count > 2 and [int(batch["number"]) for batch in looked] == list(range(0, count, 2))
    assert len(looked) == -(-count // 2)
    for batch in looked:
        number = int(batch["number"])
        assert np.array_equal(batch["teacher_states"].numpy(), states[number])
        assert np.array_equal(batch["labels"].numpy(), batches[number]["labels"].numpy())
