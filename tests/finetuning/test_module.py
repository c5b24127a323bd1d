"""The loss of a task, and that a score depends neither on the batch nor on the labels' unit."""

import numpy as np
import pytest
import torch

from bort.finetuning import recipe as finetune
from bort.finetuning.module import compute_loss


def test_losses_by_hand():
    """Case F3: for p = y = (1, 2, 3) it is 0, where a shape mistake gives 1.3333."""
    numbers = torch.tensor([1.0, 2.0, 3.0])
    assert compute_loss("regression", numbers[:, None], numbers) == 0
    assert compute_loss("regression", numbers[:, None] + 2, numbers) == 4
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    expected = (np.log(2) + np.log(4)) / 2
    assert float(compute_loss("classes", logits, torch.tensor([1, 1]))) == pytest.approx(expected)


@pytest.mark.parametrize("copies", [(1, 3), (4, 2)])
def test_a_class_that_weighs_twice_is_there_twice(copies):
    """A loss with weights, and its gradient, are those of rows that are repeated so often."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 2, generator=random, dtype=torch.float32)
    labels = torch.tensor([0, 1, 1, 0, 0, 0, 1])
    repeats = torch.tensor(copies)[labels]
    results = []
    for is_weighted in (True, False):
        outputs = logits.clone().requires_grad_()
        if is_weighted:
            weights = torch.tensor(copies, dtype=torch.float32)
            loss = compute_loss("classes", outputs, labels, weights=weights) * len(labels)
        else:
            rows = torch.repeat_interleave(torch.arange(7), repeats)
            loss = compute_loss("classes", outputs[rows], labels[rows], "sum")
        loss.backward()
        results.append((loss.detach(), outputs.grad))
    torch.testing.assert_close(results[0], results[1])
    for reduction, expected in (("sum", results[1][0]), ("none", results[1][0])):
        loss = compute_loss("classes", logits, labels, reduction, torch.tensor(copies).float())
        torch.testing.assert_close(loss.sum(), expected)


def test_regression_scores_do_not_depend_on_the_batch(shared, run_of, tmp_path):
    """Case F3: evaluation batches of 4, 16 and 28 (four times data.batch_size)."""
    root = shared / "cases" / "F3-regression-shape" / "glue"
    found = []
    for size in (1, 4, 7):
        run = run_of("glue/stsb", root, f"data.batch_size={size}", "trainer.max_steps=1")
        run.optim.lr = 1e-12  # so that the batch of training does not matter
        found.append(finetune.finetune(run, tmp_path / str(size)))
    for key in ("val/pearson", "val/spearman"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-5)
        assert found[0][key] == pytest.approx(found[2][key], abs=1e-5)


@pytest.mark.parametrize(("c", "d"), [(1000.0, 0.0), (-1.0, 0.0), (1.0, 200_000.0), (-1e3, 2e5)])
def test_numbers_on_another_scale_are_learnt_as_well(priced, c, d):
    """Labels c · y + d are answered by c · p + d, to a thousandth of the spread."""
    _, plain, p = priced(1.0, 0.0)
    _, summary, answers = priced(c, d)
    assert np.std(p) > 0.1 and plain["val/r2"] > 0.3
    assert np.abs(answers - (c * p + d)).max() < 1e-3 * abs(c) * np.ptp(p)
    assert summary["val/pearson"] == pytest.approx(plain["val/pearson"], abs=1e-5)
    assert summary["val/rmse"] == pytest.approx(abs(c) * plain["val/rmse"], rel=1e-3)
