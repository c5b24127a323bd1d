"""Runs of tests, and what they leave, for the tests of several packages."""

import csv
import json
import logging
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bort import console
from bort.agora import dry_run as agora_dry_run
from bort.config.data import DataConfig
from bort.config.search import SearchRunConfig
from bort.config.train import TrainConfig
from bort.finetuning import dry_run as finetuning_dry_run
from bort.finetuning.examples import TaskExamples
from bort.finetuning.heads import arrange_texts, build_task_classifier
from bort.models.bert import Classifier, MaskedLM
from bort.pretraining import dry_run as pretraining_dry_run
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import PackedDataModule
from bort.search import dry_run as search_dry_run
from bort.search import optimum
from bort.search import sweep as search
from bort.tasks import registry


class LogLines(logging.Handler):
    """Keeps the lines that bort logs, as the screen shows them."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(console.screen_line(record))


def log_lines() -> list[str]:
    """A list which receives what bort logs from now on until the test ends."""
    console.show_log()
    handler = LogLines()
    logging.getLogger("bort").addHandler(handler)
    return handler.lines


def open_batches(corpus: Corpus, data: DataConfig, seed: int) -> PackedDataModule:
    """The batches of a corpus as a trainer has them, after its setup."""
    module = PackedDataModule(data, seed=seed, corpus=corpus)
    module.setup()
    return module


class StopAfter(pl.Callback):
    """Sends this process a signal during optimizer step `step`."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number, self.sent = step, number, False

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.step - 1 and not self.sent:
            self.sent = True  # the second of two micro-batches would end the process at once
            signal.raise_signal(self.number)


def stopping(run: TrainConfig, step: int, number: int = signal.SIGTERM) -> TrainConfig:
    stop = {"_target_": f"{__name__}.StopAfter", "step": step, "number": int(number)}
    return replace(run, callbacks={"stop": stop})


class Logs(pl.Callback):
    def on_validation_epoch_end(self, trainer, module) -> None:
        module.log("mine/score", 1.0, logger=False)


def records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, behind wandb's header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768  # of the block; a head of 7 bytes is never cut
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def offline_log(folder: Path) -> tuple[list[dict], dict]:
    """History rows and settings in the one offline log below a run folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("*.wandb")
    history, config = [], {}
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        if items := record.history.item:
            history.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
        for item in [*record.run.config.update, *record.config.update]:
            config[item.key or item.nested_key[0]] = item.value_json
    return history, config


def add_head(body: MaskedLM, task: str, length: int = 64, head: str = "linear") -> Classifier:
    """Put the new head of a task on a model, for inputs of `length` tokens."""
    arranged = arrange_texts(registry.find_task(task), head)
    return build_task_classifier(body, TaskExamples(arranged, None, length, {}, {}), head)


def sweep(run: SearchRunConfig, folder: Path) -> dict:
    """What search.py does, without Hydra between."""
    search.run_in_process(run, folder)
    return optimum.conclude(folder).to_json()


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "candidates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def counting():
    """The FLOPs of what is done inside; the counter sees attention as plain products only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


NOWHERE = Path("nowhere")


def plan_of(run: TrainConfig) -> dict[str, str]:
    """The lines of a run's plan by their first word; nothing of it is started."""
    lines = log_lines()
    plans = {"search": search_dry_run, "finetune": finetuning_dry_run, "agora": agora_dry_run}
    plans.get(run.job, pretraining_dry_run).show(run, NOWHERE)
    assert lines[-1] == "dry_run=true: nothing was started" and not NOWHERE.exists()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[:-1]}
