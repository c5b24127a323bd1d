"""Loader processes: what kills one, who gets the signals, what memory they need."""

import os
import signal
import time

import pytest
import torch
from tiny_runs import open_batches

from bort.errors import BortError
from bort.pretraining.recipe import prepare
from bort.training.loader import ResumableLoader, check_shared_memory


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_loader_process_that_dies_while_it_hands_a_batch_over(error, monkeypatch):
    batches = [{"x": torch.tensor(k)} for k in range(3)]
    loader = ResumableLoader(batches, sampler=range(3), batch_size=None, num_workers=1)

    def start():
        yield batches[0]
        raise error

    monkeypatch.setattr(loader, "start_processes", start)
    assert [batch["x"].item() for batch in loader] == [0, 1, 2]
    assert loader.failure.startswith("a loader process was killed")


def test_loader_workers_leave_signals_to_training(settings_of):
    """Ctrl-C and one SIGTERM; a second ends them, or a process that exits would wait for ever."""
    run = settings_of("data.workers=2")
    corpus, _ = prepare(run)
    loader = open_batches(corpus, run.data, run.seed).train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker: both have started
    workers = loader._iterator._workers
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        for worker in workers:
            os.kill(worker.pid, number)
        time.sleep(0.1)
    assert all(worker.is_alive() for worker in workers) and len(list(batches)) == 5
    for worker in workers:
        worker.terminate()
        worker.join(10)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_shared_memory_that_loader_processes_need(tmp_path, monkeypatch):
    """A folder of batches of 800 bytes: too small, absent, enough."""
    batches = [{"a": torch.zeros(100, dtype=torch.int64)}]
    check_shared_memory(batches, 2, tmp_path)
    check_shared_memory(batches, 0, tmp_path / "none")
    with pytest.raises(BortError, match=r"data.workers=2 needs .*none to write to; use data.work"):
        check_shared_memory(batches, 2, tmp_path / "none")
    little = os.statvfs_result((0, 1, 9, 9, 3999, 0, 0, 0, 0, 255))  # blocks of a byte, 3,999 left
    monkeypatch.setattr(os, "statvfs", lambda folder: little)
    with pytest.raises(BortError, match=r"needs 4,000 bytes of shared memory, .* has 3,999 left"):
        check_shared_memory(batches, 2, tmp_path)
