"""Batches of rows: every row once, little padding, and shares of several processes."""

import numpy as np
import pytest
import torch

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.finetuning.datamodule import RowBatches, TaskDataModule
from bort.finetuning.examples import encode_examples
from bort.models.huggingface import load_tokenizer
from bort.tasks import reading, registry
from bort.tasks.custom import define_task
from bort.tasks.encoding import encode_rows
from bort.tasks.task import Row


def batches_of(shared, model, **options) -> tuple[RowBatches, list]:
    task = registry.find_task("glue/rte")
    rows = reading.read_rows(task, shared / "data" / "glue")["val"]
    tokenizer = load_tokenizer(model)
    return RowBatches(encode_rows(task, rows, tokenizer, 128), rows, 8, 1, **options), rows


def test_batches_hold_every_row_once_and_little_padding(shared, model):
    batches, rows = batches_of(shared, model, seed=0)
    for epoch in (0, 1):
        found = [batches[epoch * len(batches) + k] for k in range(len(batches))]
        order = torch.cat([batch["rows"] for batch in found]).tolist()
        assert sorted(order) == list(range(277)) and order != sorted(order)
        real = sum(int(batch["attention_mask"].sum()) for batch in found)
        assert real / sum(batch["input_ids"].numel() for batch in found) > 0.9
        for batch in found:
            expected = [rows[k].label for k in batch["rows"].tolist()]
            assert batch["labels"].tolist() == expected
    first, second = (
        torch.cat([batches[e * len(batches) + k]["rows"] for k in range(5)]) for e in (0, 1)
    )
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(("count", "processes"), [(277, 2), (277, 3), (277, 4), (17, 4), (5, 5)])
def test_processes_share_the_rows_of_a_step(shared, model, count, processes):
    """No row of an epoch is left out or read twice, and each process has some in every step.

    A step's rows are those of one process with batches as large as theirs together, but for a last
    batch of fewer rows than processes, which is in the batch before it.
    """
    whole, rows = batches_of(shared, model, seed=3)
    rows, inputs = rows[:count], whole.inputs.of(range(count))
    parts = [RowBatches(inputs, rows, 4, 1, seed=3) for _ in range(processes)]
    for rank, part in enumerate(parts):
        part.divide(rank, processes)
    large = RowBatches(inputs, rows, 4 * processes, 1, seed=3)
    for epoch in (0, 1):
        steps = [[part[epoch * len(part) + k] for part in parts] for k in range(len(parts[0]))]
        assert all(len(batch["labels"]) for step in steps for batch in step)
        found = [torch.cat([batch["rows"] for batch in step]).tolist() for step in steps]
        assert sorted(sum(found, [])) == list(range(count))
        if count % (4 * processes) >= processes:
            alone = [large[epoch * len(large) + k]["rows"].tolist() for k in range(len(large))]
            assert [sorted(step) for step in found] == [sorted(step) for step in alone]
    with pytest.raises(BortError, match=f"{count} training rows for {count + 1} processes; use f"):
        parts[0].divide(0, count + 1)


def test_evaluation_is_in_order_of_length(shared, model):
    batches, rows = batches_of(shared, model, seed=None)
    found = list(batches)
    assert len(found) == len(batches) == 35
    lengths = [batch["input_ids"].shape[1] for batch in found]
    assert lengths == sorted(lengths)
    assert sorted(torch.cat([b["rows"] for b in found]).tolist()) == list(range(277))
    for batch in found[:3]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ((ids != 1) == mask.bool()).all()


def test_texts_that_a_head_reads_apart_follow_each_other(shared, model):
    data = DataConfig(root=str(shared / "data/glue"), length=32, batch_size=4)
    module = TaskDataModule("glue/rte", model, data, head="towers")
    module.setup()
    tokenizer, rows = load_tokenizer(model), module.examples.rows["train"]
    batch = module.train[0]
    assert batch["input_ids"].shape[0] == 8 and batch["labels"].shape == (4,)
    for k, row in enumerate(batch["rows"].tolist()):
        for number, text in enumerate(rows[row].texts):
            ids = tokenizer(text, truncation=True, max_length=32)["input_ids"]
            place = 2 * k + number
            assert batch["input_ids"][place][batch["attention_mask"][place].bool()].tolist() == ids


def test_labels_of_rows_that_have_several_beside_rows_that_have_none(model):
    """As 0 and 1, in float32; where no label is known, as zeros that `is_labelled` tells apart."""
    task = define_task("custom", "labels", ("text",), ("a", "b"))
    rows = [Row(0, ("the cat",)), Row(1, ("the dog",), (1, 0)), Row(2, ("so on",), (0, 1))]
    examples = encode_examples(task, {"train": rows}, load_tokenizer(model), 16)
    outputs = np.ones((3, 2), np.float32)
    batches = RowBatches(examples.inputs["train"], rows, 3, examples.pad_id, None, outputs)
    batch = batches[0]
    order = batch["rows"].tolist()
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[[0, 0], [1, 0], [0, 1]][row] for row in order]
    assert batch["is_labelled"].tolist() == [row > 0 for row in order]
