"""The losses by hand and against scipy: zero for the teacher itself, and their gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, rel_entr

from bort.config.distill import DistillConfig
from bort.task_distillation.losses import (
    compute_label_loss,
    compute_label_probability_loss,
    compute_logit_loss,
    compute_probability_loss,
    compute_task_losses,
)

random = torch.Generator().manual_seed(0)
OUTPUTS, TEACHER = torch.randn(2, 5, 3, generator=random).unbind(0)


def test_logits_by_hand():
    """(1, 3) and (4, 2) are (−1, 1) and (1, −1) without their means: 2² on both sides."""
    assert compute_logit_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0, 2.0]])) == 4.0
    rows = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[4.0, 2.0], [7.0, 7.0]])
    assert compute_logit_loss(*rows) == 2.0 and compute_logit_loss(*rows, "sum") == 4.0


def test_probabilities_are_scipys():
    for tau in (1.0, 2.5):
        student, teacher = (
            log_softmax(x.double().numpy() / tau, axis=-1) for x in (OUTPUTS, TEACHER)
        )
        kl = (np.exp(teacher) * (teacher - student)).sum(-1)
        mean = float(compute_probability_loss(OUTPUTS, TEACHER, tau))
        assert mean == pytest.approx(tau**2 * kl.mean(), rel=1e-5)
        total = float(compute_probability_loss(OUTPUTS, TEACHER, tau, "sum"))
        assert total == pytest.approx(tau**2 * kl.sum(), rel=1e-5)


def test_nothing_is_left_to_learn_of_the_teacher_itself():
    assert compute_logit_loss(TEACHER + 7, TEACHER) < 1e-11
    assert abs(compute_probability_loss(TEACHER + 7, TEACHER, 2.0)) < 1e-6


def make_batch(labels, is_labelled, teacher=TEACHER) -> dict[str, torch.Tensor]:
    return {
        "teacher": teacher,
        "labels": torch.tensor(labels),
        "is_labelled": torch.tensor(is_labelled),
    }


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_weighted_sum(reduction):
    """Rows without a label add nothing, whatever stands in the place of theirs."""
    distill = DistillConfig(w_kd=0.5, w_ce=2.0)
    batch = make_batch([0, 2, 1, 1, 0], [True, False, True, False, False])
    losses = compute_task_losses("classes", OUTPUTS, batch, distill, reduction)
    logs = log_softmax(OUTPUTS.double().numpy(), axis=-1)
    ce = -(logs[0, 0] + logs[2, 1]) / (5 if reduction == "mean" else 1)
    assert float(losses["ce_loss"]) == pytest.approx(ce, rel=1e-5)
    kd = float(compute_logit_loss(OUTPUTS, TEACHER, reduction))
    assert float(losses["kd_loss"]) == pytest.approx(kd)
    assert float(losses["loss"]) == pytest.approx(0.5 * kd + 2 * ce, rel=1e-5)
    unlabelled = make_batch([0] * 5, [False] * 5)
    losses = compute_task_losses("classes", OUTPUTS, unlabelled, distill, reduction)
    assert losses["ce_loss"] == 0 and math.isfinite(losses["loss"])


def test_only_what_has_a_weight_is_computed():
    batch = make_batch([0] * 5, [True] * 5)
    alone = compute_task_losses("classes", OUTPUTS, batch, DistillConfig(w_kd=1.0), "mean")
    assert set(alone) == {"kd_loss", "loss"}
    soft = DistillConfig(w_kd=1.0, kd_loss="kl", temperature=3.0)
    losses = compute_task_losses("classes", OUTPUTS, batch, soft, "mean")
    assert losses["loss"] == compute_probability_loss(OUTPUTS, TEACHER, 3.0)
    labels = DistillConfig(w_kd=0.0, w_ce=1.0)
    assert set(compute_task_losses("classes", OUTPUTS, batch, labels, "mean")) == {
        "ce_loss",
        "loss",
    }


def test_numbers():
    """By hand: answers 1 and 4, the teacher's 3 and 4, and a label, 6, for the second row."""
    outputs, teacher = torch.tensor([[1.0], [4.0]]), torch.tensor([[3.0], [4.0]])
    batch = make_batch([0.0, 6.0], [False, True], teacher)
    distill = DistillConfig(w_kd=1.0, w_ce=1.0)
    losses = compute_task_losses("regression", outputs, batch, distill, "mean")
    assert {name: float(value) for name, value in losses.items()} == {
        "kd_loss": 2.0,
        "ce_loss": 2.0,
        "loss": 4.0,
    }


@pytest.mark.parametrize("kd_loss", ["mse", "kl"])
def test_gradients(kd_loss):
    """Against differences of the loss itself, in float64."""
    distill = DistillConfig(w_kd=0.7, w_ce=0.3, kd_loss=kd_loss, temperature=2.0)
    batch = make_batch([0, 2, 1, 1, 0], [True, False, True, True, False])

    def compute(outputs):
        return compute_task_losses("classes", outputs, batch, distill, "sum")["loss"]

    outputs = OUTPUTS.clone().requires_grad_(True)
    compute(outputs).backward()
    step = 1e-2
    for row, column in ((0, 1), (1, 2), (4, 0)):
        up, down = OUTPUTS.clone(), OUTPUTS.clone()
        up[row, column] += step
        down[row, column] -= step
        slope = (compute(up) - compute(down)) / (2 * step)
        assert float(outputs.grad[row, column]) == pytest.approx(float(slope), abs=2e-3)


def test_logits_of_several_labels_keep_what_they_have_in_common():
    """By hand: 1 and 3 beside 2 and 5 are (1 + 4) / 2; seven more on one side changes it."""
    outputs, teacher = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0, 5.0], [1.0, 0]])
    assert compute_label_loss(outputs, teacher) == 1.5
    assert compute_label_loss(outputs, teacher, "sum") == 3.0
    assert compute_label_loss(teacher, teacher) == 0 < compute_label_loss(teacher + 7, teacher)


def test_probabilities_of_several_labels_are_scipys():
    """The sum of the KLs of each label, which is right or wrong."""
    for tau in (1.0, 2.5):
        p, q = (expit(x.double().numpy() / tau) for x in (TEACHER, OUTPUTS))
        kl = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(-1)
        mean = float(compute_label_probability_loss(OUTPUTS, TEACHER, tau))
        assert mean == pytest.approx(tau**2 * kl.mean(), rel=1e-5)
        total = float(compute_label_probability_loss(OUTPUTS, TEACHER, tau, "sum"))
        assert total == pytest.approx(tau**2 * kl.sum(), rel=1e-5)
    assert abs(compute_label_probability_loss(TEACHER, TEACHER, 2.0)) < 1e-6
    assert compute_label_probability_loss(TEACHER + 1, TEACHER, 2.0) > 0.1
    far = torch.tensor([[90.0, -90.0]])
    assert compute_label_probability_loss(-far, far, 1.0) == pytest.approx(180)


@pytest.mark.parametrize("kd_loss", ["mse", "kl"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_several_labels_in_the_weighted_sum(kd_loss, reduction):
    """The mean binary cross-entropy of rows with labels beside what the teacher says of all."""
    distill = DistillConfig(w_kd=0.5, w_ce=2.0, kd_loss=kd_loss, temperature=2.0)
    labels = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    batch = make_batch(labels, [True, False, True, False, False])
    losses = compute_task_losses("labels", OUTPUTS, batch, distill, reduction)
    right = torch.tensor(labels)[[0, 2]].double().numpy()
    p = expit(OUTPUTS[[0, 2]].double().numpy())
    ce = -(right * np.log(p) + (1 - right) * np.log(1 - p)).mean(-1).sum()
    assert float(losses["ce_loss"]) == pytest.approx(ce / (5 if reduction == "mean" else 1))
    expected = compute_label_loss(OUTPUTS, TEACHER, reduction)
    if kd_loss == "kl":
        expected = compute_label_probability_loss(OUTPUTS, TEACHER, 2.0, reduction)
    assert losses["kd_loss"] == expected
