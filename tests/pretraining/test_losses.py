"""The losses by hand: in plain Python, against constants, extremes and half precision."""

import math

import pytest
import torch
from torch.nn import functional as F

from bort.config.distill import DistillConfig
from bort.errors import BortError
from bort.pretraining.losses import (
    CHUNK,
    compute_entropy,
    distillation_loss,
    kd_loss,
    mlm_loss,
)

STUDENT = torch.tensor([[0.0, 0, 0], [1, 2, 3]])  # case L3: two positions, three words
TEACHER = torch.tensor([[2.0, 0, 0], [1, 2, 3]])
WORDS = torch.tensor([0, 2])


def by_hand(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[float]:
    """KL(teacher ‖ student) of each position in plain Python floats."""
    found = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = (
            [math.exp(x / temperature) / sum(math.exp(y / temperature) for y in z) for x in z]
            for z in (t, s)
        )
        found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return found


def test_kd_value():
    assert by_hand(STUDENT, TEACHER, 2.0) == pytest.approx([0.123284, 0], abs=1e-6)
    kd, mlm = kd_loss(STUDENT, TEACHER, 2.0), mlm_loss(STUDENT, WORDS)
    assert kd.item() == pytest.approx(0.246569, abs=1e-6)  # τ² · mean over the two positions
    assert mlm.item() == pytest.approx(0.753109, abs=1e-6)
    assert (0.5 * kd + 0.1 * mlm).item() == pytest.approx(0.198595, abs=1e-6)
    assert kd_loss(STUDENT[:1], TEACHER[:1], 2.0).item() == pytest.approx(4 * 0.123284, abs=4e-6)
    assert kd_loss(STUDENT[1:], TEACHER[1:], 2.0).item() == 0


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_kd_against_plain_python(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 11, generator=generator) * 3
    expected = temperature**2 * sum(by_hand(student, teacher, temperature)) / 7
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)
    total = kd_loss(student, teacher, temperature, "sum").item()
    assert total == pytest.approx(7 * expected, rel=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_kd_gradient_against_autograd(monkeypatch, rows, precision):
    """In chunks of any number of rows, loss and gradient are those of PyTorch's own kl_div."""
    monkeypatch.setitem(CHUNK, "cpu", rows * 11)
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(2, 7, 11, generator=generator)).to(precision)
    student, reference = logits.clone().requires_grad_(), logits.double().requires_grad_()
    (0.5 * kd_loss(student, teacher, 2.0)).backward()
    log_p, log_q = (F.log_softmax(x.double() / 2, -1) for x in (teacher, reference))
    expected = 4 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    (0.5 * expected).backward()
    assert student.grad.dtype == precision
    tolerance = 1e-6 if precision == torch.float32 else 2e-3
    torch.testing.assert_close(student.grad.double(), reference.grad, atol=tolerance, rtol=0.01)
    with torch.no_grad():
        assert kd_loss(student, teacher, 2.0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_mlm_gradient_against_autograd(monkeypatch, rows, precision):
    monkeypatch.setitem(CHUNK, "cpu", rows * 11)
    generator = torch.Generator().manual_seed(0)
    values = (3 * torch.randn(7, 11, generator=generator)).to(precision)
    words = torch.randint(11, (7,), generator=generator)
    logits, reference = values.clone().requires_grad_(), values.double().requires_grad_()
    (0.1 * mlm_loss(logits, words)).backward()
    expected = F.cross_entropy(reference, words)
    (0.1 * expected).backward()
    tolerance = 1e-7 if precision == torch.float32 else 2e-4
    torch.testing.assert_close(logits.grad.double(), reference.grad, atol=tolerance, rtol=0.01)
    with torch.no_grad():
        assert mlm_loss(logits, words).item() == pytest.approx(expected.item(), rel=1e-6)
        assert mlm_loss(logits, words, "sum").item() == pytest.approx(7 * expected.item(), rel=1e-6)


def test_small_gradients_survive_float16_by_a_scaled_loss():
    """A probability of 1e-8 is 0 in float16; times the scale of a gradient scaler it is not."""
    logits = torch.tensor([[18.4, 0.0]]).half().requires_grad_()
    probability = math.exp(-18.40625)  # 18.4 in float16
    (2.0**16 * mlm_loss(logits, torch.tensor([0]))).backward()
    assert logits.grad.dtype == torch.float16
    assert logits.grad[0, 1].item() == pytest.approx(2**16 * probability, rel=1e-2)


def test_kd_sees_no_constant():
    for row in (torch.tensor(7.0), torch.tensor([[7.0], [-7.0]])):
        assert kd_loss(STUDENT, TEACHER + row, 2.0).item() == pytest.approx(0.246569, abs=1e-6)
        assert kd_loss(STUDENT + row, TEACHER, 2.0).item() == pytest.approx(0.246569, abs=1e-6)


def test_large_logits_stay_finite():
    teacher = torch.tensor([[10_000.0, -10_000, 0], [-10_000, 10_000, 10_000]])
    student = (-teacher).requires_grad_()
    loss = kd_loss(student, teacher, 2.0) + mlm_loss(student, WORDS)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert kd_loss(teacher, teacher.clone(), 1.0).item() == 0


def test_half_precision_is_computed_in_float32():
    exact = kd_loss(STUDENT, TEACHER, 2.0)
    assert kd_loss(STUDENT.bfloat16(), TEACHER.bfloat16(), 2.0) == exact
    assert mlm_loss(STUDENT.bfloat16(), WORDS) == mlm_loss(STUDENT, WORDS)


def test_no_masked_position_is_a_zero_with_a_gradient():
    student = torch.zeros(0, 3, requires_grad=True)
    loss = kd_loss(student, torch.zeros(0, 3), 1.0) + mlm_loss(student, WORDS[:0])
    loss.backward()
    assert loss.item() == 0 and student.grad.shape == (0, 3)


def test_other_vocabulary_is_refused():
    with pytest.raises(BortError, match="has 4 tokens, the student's 3"):
        kd_loss(STUDENT, torch.zeros(2, 4), 1.0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_losses_are_weighed(reduction):
    weights = DistillConfig(w_kd=0.5, w_mlm=0.1, temperature=2.0)
    losses = distillation_loss(STUDENT, TEACHER, WORDS, weights, reduction)
    times = 2 if reduction == "sum" else 1
    assert losses["loss"].item() == pytest.approx(times * 0.198595, abs=1e-6)
    assert losses["kd_loss"].item() == pytest.approx(times * 0.246569, abs=1e-6)
    assert losses["mlm_loss"].item() == pytest.approx(times * 0.753109, abs=1e-6)


def test_a_loss_without_weight_is_not_computed():
    only_mlm = distillation_loss(STUDENT, None, WORDS, DistillConfig(w_kd=0.0, w_mlm=2.0))
    assert set(only_mlm) == {"loss", "mlm_loss"}
    assert only_mlm["loss"] == 2 * mlm_loss(STUDENT, WORDS)
    only_kd = distillation_loss(STUDENT, TEACHER, WORDS, DistillConfig())
    assert set(only_kd) == {"loss", "kd_loss"} and only_kd["loss"] == kd_loss(STUDENT, TEACHER, 1.0)


def test_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    certain = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert compute_entropy(logits).item() == pytest.approx((math.log(2) + certain) / 2, abs=1e-6)
