"""Batches: what is in them, and exact replay from any place."""

import pickle
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tiny_runs import open_batches
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from bort.config.data import DataConfig
from bort.pretraining.corpus import Corpus, build_corpus
from bort.pretraining.datamodule import TrainBatches, ValBatches
from bort.text.token_stream import count_sequences, pack_sequences
from bort.training.loader import ResumeSampler


def build_text(folder: Path, lines, tokenizer=None, **settings) -> tuple[Corpus, DataConfig]:
    path = folder / "text.txt"
    if not path.exists():
        path.write_text("\n".join(lines))
    defaults = {"length": 16, "batch_size": 4, "val_fraction": 0.3}
    if tokenizer is None:  # an existing one would be trimmed to it
        defaults["vocab_size"] = 300
    data = DataConfig(source="text", path=str(path), **(defaults | settings))
    return build_corpus(data, folder / "cache", tokenizer), data


@pytest.fixture
def packed(tmp_path):
    """A corpus of 120 distinct lines; other settings of the data leave the corpus as it is."""

    def make(**settings):
        return build_text(
            tmp_path, (f"Line {k}: {k * k} and {k**3}" for k in range(120)), **settings
        )

    return make


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def original(batch) -> np.ndarray:
    """A batch's ids before masking."""
    ids = batch["input_ids"].clone()
    ids.view(-1)[batch["positions"]] = batch["labels"]
    return ids.numpy()


# ------------------------------------------------------------------------------------ masking


# ------------------------------------------------------------------------------------ batches


def test_short_sequences_always_have_a_target(shared, tmp_path):
    """Case M1 in the loader: 200 batches of one sequence with 6 places."""
    path = shared / "cases" / "M1-nothing-masked" / "text.txt"
    data = DataConfig(
        source="text", path=str(path), length=8, batch_size=1, vocab_size=300, val_fraction=0.3
    )
    corpus = build_corpus(data, tmp_path)
    batches = TrainBatches(corpus, data, seed=0)
    counts = [len(batches[k]["positions"]) for k in range(200)]
    assert min(counts) >= 1 and max(counts) <= 6
    for batch in ValBatches(corpus, data):
        assert len(np.unique(batch["positions"] // 8)) == len(batch["input_ids"])


def test_packed_bytes_arrive_in_batches(shared, tmp_path):
    """Case M2 in the loader: the 7 sequences of 98 bytes, once each and in another order."""
    case = shared / "cases"
    text = (case / "M2-packing-edges" / "text.txt").read_text()
    tokenizer = AutoTokenizer.from_pretrained(case / "models" / "roberta-tiny")
    corpus, data = build_text(tmp_path, [text], tokenizer, val_fraction=0.0, batch_size=3)
    batches = TrainBatches(corpus, data, seed=1)
    rows = [original(batches[k]).tolist() for k in range(len(batches))]
    assert [len(row) for row in rows] == [3, 3, 1]
    content = text.removesuffix("\n").encode()
    expected = [[0, *(4 + b for b in content[14 * k : 14 * k + 14]), 2] for k in range(7)]
    found = [row for batch in rows for row in batch]
    assert sorted(found) == sorted(expected) and found != expected


def test_an_epoch_shows_each_sequence_once(packed):
    count = count_sequences(packed()[0].train, 16)
    size = 5 if count % 5 else 6  # so that the last batch is smaller, and not lost
    corpus, data = packed(batch_size=size)
    batches = TrainBatches(corpus, data, seed=0)
    assert count % size and len(batches) == count // size + 1
    everything = pack_sequences(corpus.train, np.arange(count), 16, 0, 2)
    epochs = []
    for epoch in range(2):
        rows = [original(batches[epoch * len(batches) + k]) for k in range(len(batches))]
        assert [len(row) for row in rows] == [size] * (count // size) + [count % size]
        epochs.append(np.concatenate(rows))
        assert sorted(epochs[-1].tolist()) == sorted(everything.tolist())
    assert not np.array_equal(*epochs)


def test_batches_are_a_function_of_seed_epoch_and_number(packed):
    corpus, data = packed()
    batches, again = TrainBatches(corpus, data, seed=0), TrainBatches(corpus, data, seed=0)
    n = len(batches)
    assert all(equal(batches[k], again[k]) for k in (3 * n + 2, 1, 5 * n, 0, n - 1))
    other = TrainBatches(corpus, data, seed=1)
    assert not equal(batches[0], other[0])
    places = {tuple(batches[k]["positions"].tolist()) for k in range(n)}
    assert len(places) == n  # no two batches of an epoch draw the same masks

    def masks(batches, epoch):  # sequence → masked places
        found = {}
        for k in range(n):
            batch = batches[epoch * n + k]
            places = batch["positions"].numpy()
            for row, ids in enumerate(original(batch)):
                found[ids.tobytes()] = (places[places // 16 == row] % 16).tolist()
        return found

    first, second = masks(batches, 0), masks(batches, 1)
    assert first.keys() == second.keys()
    # two independent draws of 14 places at 0.3 agree with probability (0.58)^14 < 0.001
    assert sum(first[key] == second[key] for key in first) < 0.05 * len(first) + 3


def masked_rows(batches, epoch: int = 1) -> dict[bytes, tuple]:
    """Sequence → what the model is shown of it, and its masked places, in one epoch."""
    table = {}
    for k in range(len(batches)):
        batch = batches[epoch * len(batches) + k]
        places = batch["positions"].numpy()
        for row, ids in enumerate(original(batch)):
            masked = (places[places // 16 == row] % 16).tolist()
            table[ids.tobytes()] = batch["input_ids"][row].tolist(), masked
    return table


def test_masks_of_a_sequence_do_not_depend_on_its_batch(packed):
    """Of batches of 4, of 8 and of all, the same sequences are masked in the same way."""
    tables = []
    for size in (4, 8, 10_000):
        corpus, data = packed(batch_size=size)
        tables.append(masked_rows(TrainBatches(corpus, data, seed=3)))
    assert len(tables[0]) > 20 and tables[0] == tables[1] == tables[2]


def test_two_small_batches_are_one_large_batch(packed):
    """Accumulating two batches of 4 sees what a batch of 8 sees, bit by bit."""
    small, large = (TrainBatches(*packed(batch_size=size), seed=3) for size in (4, 8))
    for step in range(len(large)):
        parts = [small[k] for k in range(2 * step, min(2 * step + 2, len(small)))]
        assert equal(joined(parts), large[step])


def joined(parts: list[dict]) -> dict[str, torch.Tensor]:
    starts = np.cumsum([0, *(part["input_ids"].numel() for part in parts)])
    places = [part["positions"] + start for part, start in zip(parts, starts, strict=False)]
    return {
        "input_ids": torch.cat([part["input_ids"] for part in parts]),
        "positions": torch.cat(places),
        "labels": torch.cat([part["labels"] for part in parts]),
    }


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_batches_of_all_processes_are_one_large_batch(packed, processes):
    """Two processes with batches of 4 train on what one with batches of 8 does, step by step."""
    corpus, data = packed()
    parts = [TrainBatches(corpus, data, seed=1) for _ in range(processes)]
    for rank, part in enumerate(parts):
        part.divide(rank, processes)
    large = TrainBatches(*packed(batch_size=4 * processes), seed=1)
    assert {len(part) for part in parts} == {len(large)}
    for step in range(2 * len(large)):
        shares = [part[step] for part in parts]
        # a process for which no sequence is left is shown one without a target
        rows = [share for share in shares if len(share["labels"])]
        assert equal(joined(rows), large[step])
        assert all(len(share["input_ids"]) for share in shares)


def test_more_processes_than_sequences_are_left(packed):
    """All take part in the last step of an epoch, or they would wait for each other."""
    corpus, data = packed(batch_size=1)
    count = len(TrainBatches(corpus, data, seed=0))
    processes = next(n for n in range(3, 9) if 0 < count % n < n - 1)
    part = TrainBatches(corpus, data, seed=0)
    part.divide(processes - 1, processes)
    batch = part[len(part) - 1]
    assert batch["input_ids"].shape == (1, 16) and len(batch["labels"]) == 0


def test_fewer_sequences_than_a_batch(packed):
    corpus, data = packed(batch_size=10_000)
    batches = TrainBatches(corpus, data, seed=0)
    assert len(batches) == 1 and len(batches[0]["input_ids"]) == count_sequences(corpus.train, 16)


def test_all_runs_are_scored_on_the_same_masks(packed):
    reference = None
    for settings in ({}, {"batch_size": 1}, {"batch_size": 3, "mask_rate": 0.4, "workers": 2}):
        corpus, data = packed(val_sequences=20, **settings)
        module = open_batches(corpus, data, len(settings))
        batches = list(module.val_dataloader())
        assert [len(b["input_ids"]) for b in batches[:-1]] == [4 * data.batch_size] * (
            len(batches) - 1
        )
        ids = torch.cat([batch["input_ids"] for batch in batches])
        starts = np.cumsum([0, *(batch["input_ids"].numel() for batch in batches)])
        places = torch.cat([b["positions"] + s for b, s in zip(batches, starts, strict=False)])
        labels = torch.cat([batch["labels"] for batch in batches])
        reference = reference or (ids, places, labels)
        assert all(map(torch.equal, reference, (ids, places, labels)))
    assert len(reference[0]) == 20


def test_validation_is_spread_over_its_text_at_a_rate_of_its_own(tmp_path):
    lines = (f"{k} {k * k}" for k in range(3000))
    corpus, data = build_text(tmp_path, lines, val_fraction=0.5, val_sequences=200, mask_rate=0.9)
    count = count_sequences(corpus.val, 16)
    assert count > 400
    batches = ValBatches(corpus, data)
    chosen = batches.chosen
    assert len(chosen) == 200 == len(set(chosen)) and chosen[0] == 0 and chosen[-1] < count
    assert set(np.diff(chosen)) <= {count // 200, count // 200 + 1}
    found = np.concatenate([original(batch) for batch in batches])
    assert np.array_equal(found, pack_sequences(corpus.val, chosen, 16, 0, 2))
    masked = sum(len(batch["positions"]) for batch in batches)
    # 2,800 places, none of the separators: at 0.15, with one forced in 10% of the rows
    words = (~np.isin(found, [0, 2])).sum()
    assert abs(masked / words - 0.15) < 0.03


def test_without_validation_text_there_is_no_loader(packed):
    corpus, data = packed(val_fraction=0.0)
    module = open_batches(corpus, data, 0)
    assert module.val_dataloader() == [] and len(list(ValBatches(corpus, data))) == 0
    assert len(module.train_dataloader()) == len(list(module.train_dataloader()))


# ------------------------------------------------------------------------------------ the loader


def test_workers_change_nothing(packed):
    before = torch.get_rng_state()
    runs = []
    for workers in (0, 2):
        corpus, data = packed(workers=workers)
        runs.append(list(open_batches(corpus, data, 5).train_dataloader()))
    assert len(runs[0]) == len(runs[1]) > 5
    assert all(map(equal, *runs))
    # torch's own generator is left alone, so that dropout after a resume can be exact
    assert torch.equal(torch.get_rng_state(), before)


def test_dataset_travels_to_a_worker_as_a_path(packed):
    corpus, data = packed()
    batches = TrainBatches(corpus, data, seed=0)
    expected = batches[1]  # opens the memory map
    content = pickle.dumps(batches)
    assert len(content) < 20_000 and equal(pickle.loads(content)[1], expected)


def test_sampler_goes_on_from_any_place():
    whole = [k for start in (0, 7, 14) for k in ResumeSampler(7, lambda start=start: start)]
    assert whole == list(range(21))
    for done in range(15):
        assert list(ResumeSampler(7, lambda done=done: done)) == whole[done : done + 7]


class Recorder(pl.LightningModule):
    """Trains one number and keeps every batch that it has seen."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch)
        return self.weight.sum()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(pl.Callback):
    """Saves once, in the hook named, when `batch` batches of the whole run are done."""

    def __init__(self, hook: str, batch: int, file: Path):
        def save(trainer, *arguments, **keywords):
            if trainer.fit_loop.epoch_loop.batch_progress.total.processed == batch:
                trainer.save_checkpoint(file)

        setattr(self, hook, save)


def run(packed, max_steps, callbacks=(), checkpoint=None, workers=0, accumulate=1):
    corpus, data = packed(workers=workers, batch_size=6)
    trainer = pl.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
    )
    module = Recorder()
    trainer.fit(module, datamodule=open_batches(corpus, data, 0), ckpt_path=checkpoint)
    return module.seen, trainer


@pytest.mark.parametrize(
    ("hook", "workers"),
    [("on_train_batch_end", 0), ("on_train_batch_end", 2), ("on_train_epoch_end", 0)],
)
def test_resume_in_lightning_repeats_and_skips_nothing(packed, tmp_path, hook, workers):
    corpus, data = packed(batch_size=6)
    n = len(TrainBatches(corpus, data, seed=0))
    whole, _ = run(packed, 2 * n + 3)
    assert n > 4 and len(whole) == 2 * n + 3
    middle = (1, 2, n - 1, n + 1) if workers == 0 else (2,)
    for done in (n, 2 * n, *(middle if hook == "on_train_batch_end" else ())):
        file = tmp_path / f"{done}.ckpt"
        run(packed, 2 * n + 3, [SaveAt(hook, done, file)], workers=workers)
        rest, _ = run(packed, 2 * n + 3, checkpoint=file, workers=workers)
        assert len(rest) == len(whole) - done
        assert all(map(equal, rest, whole[done:]))


def test_resume_after_a_finished_fit_with_accumulation(packed, tmp_path):
    whole, _ = run(packed, 9, accumulate=2)
    for steps in (1, 3, 4, 6):
        part, trainer = run(packed, steps, accumulate=2)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        rest, _ = run(packed, 9, checkpoint=tmp_path / "last.ckpt", accumulate=2)
        assert len(part) + len(rest) == len(whole)
        assert all(map(equal, [*part, *rest], whole))


def test_loader_is_sized_and_plain(packed):
    corpus, data = packed()
    module = open_batches(corpus, data, 0)
    loader = module.train_dataloader()
    assert isinstance(loader, DataLoader) and len(loader) == len(module.train)
    batch = next(iter(loader))
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(
        ("input_ids", "positions", "labels"), torch.int64
    )
    assert batch["input_ids"].shape == (4, 16)
