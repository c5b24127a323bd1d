"""The losses on unmasked text: by hand, zero for the teacher itself, and against autograd."""

import math

import pytest
import torch
from torch.nn import functional as F

from bort.errors import BortError
from bort.pretraining.state_losses import (
    choose_relation_heads,
    count_texts,
    hidden_loss,
    relation_loss,
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_hidden_value_by_hand():
    """Two tokens of one text: one points the same way, the other at a right angle."""
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [3.0, 0.0]]])
    tokens = (0 + 1) / 2
    pooled = 1 - 0.5 / math.hypot(0.5, 0.5)  # (½, ½) beside (5/2, 0)
    assert hidden_loss(student, teacher).item() == pytest.approx(tokens + pooled, abs=1e-6)
    assert hidden_loss(-teacher, teacher).item() == pytest.approx(4, abs=1e-6)


def test_relation_value_by_hand():
    """One head of one number: the relations of tokens (0, 1) are softmax(0, 0) and softmax(0, 1).

    Those of the teacher, zeros, are a half each.
    """
    student, teacher = torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, 1)
    q = 1 / (1 + math.e)  # of the second token to the first
    by_hand = (0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q))) / 2
    loss = relation_loss([student] * 3, [teacher] * 3, 1)
    assert loss.item() == pytest.approx(3 * by_hand, abs=1e-6)
    only = relation_loss([student, teacher, teacher], [teacher] * 3, 1)
    assert only.item() == pytest.approx(by_hand, abs=1e-6)


def test_the_teacher_itself_has_no_loss_and_no_gradient():
    states = draw(3, 5, 8).requires_grad_()
    loss = hidden_loss(states, 2 * states.detach())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert states.grad.abs().max() < 1e-12
    kinds = [draw(3, 5, 2, 4, seed=k).requires_grad_() for k in range(3)]
    loss = relation_loss(kinds, [x.detach() for x in kinds], 4)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert max(x.grad.abs().max() for x in kinds) < 1e-12


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hidden_gradient_against_plain_autograd(padded, reduction):
    """Text by text, as the formula says, in float64."""
    lengths = [5, 3, 1] if padded else [5, 5, 5]
    student, teacher = draw(3, 5, 4).requires_grad_(), draw(3, 5, 4, seed=1)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None] if padded else None
    reference = student.detach().clone().requires_grad_()
    losses = []
    for row, target, n in zip(reference, teacher, lengths, strict=True):
        x, y = row[:n] / row[:n].norm(dim=1, keepdim=True), target[:n]
        tokens = 1 - (x * y / y.norm(dim=1, keepdim=True)).sum(1).mean()
        a, b = row[:n].mean(0), y.mean(0)
        losses.append(tokens + 1 - a @ b / (a.norm() * b.norm()))
    expected = torch.stack(losses).sum() / (3 if reduction == "mean" else 1)
    expected.backward()
    loss = hidden_loss(student, teacher, mask, reduction)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(student.grad, reference.grad, atol=1e-12, rtol=1e-9)
    assert torch.autograd.gradcheck(lambda x: hidden_loss(x, teacher, mask, reduction), student)


@pytest.mark.parametrize("padded", [False, True])
def test_relation_gradient_against_plain_autograd(padded):
    """Models of different width and heads share their relation heads."""
    lengths = [4, 2] if padded else [4, 4]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None] if padded else None
    student = [draw(2, 4, 2, 4, seed=k).requires_grad_() for k in range(3)]
    teacher = [draw(2, 4, 3, 4, seed=k + 3) for k in range(3)]
    reference = [x.detach().clone().requires_grad_() for x in student]
    expected = torch.zeros((), dtype=torch.float64)
    for mine, target in zip(reference, teacher, strict=True):
        for row, n in enumerate(lengths):
            kinds = []
            for x, size in ((mine, 2), (target, 3)):  # numbers of each of 4 relation heads
                heads = x[row, :n].reshape(n, 4, size).transpose(0, 1)
                kinds.append(F.log_softmax(heads @ heads.mT / math.sqrt(size), -1))
            log_q, log_p = kinds
            expected = expected + (log_p.exp() * (log_p - log_q)).sum(-1).mean() / 2
    expected.backward()
    loss = relation_loss(student, teacher, 4, mask)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
    for x, y in zip(student, reference, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-12, rtol=1e-9)

    def compute(*kinds):
        return relation_loss(kinds, teacher, 4, mask)

    assert torch.autograd.gradcheck(compute, student)


def test_what_is_padded_changes_nothing():
    student, teacher = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0]]).repeat(2, 1)
    wide, target = (F.pad(x, (0, 0, 0, 2), value=7.0) for x in (student, teacher))
    torch.testing.assert_close(hidden_loss(wide, target, mask), hidden_loss(student, teacher))
    kinds = [
        relation_loss([x] * 3, [y] * 3, 2, m)
        for x, y, m in ((wide, target, mask), (student, teacher, None))
    ]
    torch.testing.assert_close(*kinds)


def test_a_text_without_a_token_counts_as_none():
    """It fills the batch of a process for which no text is left."""
    student, teacher = draw(2, 3, 4).requires_grad_(), draw(2, 3, 4, seed=1)
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    assert count_texts(mask, mask) == 1 and count_texts(mask, None) == 2
    alone = hidden_loss(student[:1], teacher[:1])
    torch.testing.assert_close(hidden_loss(student, teacher, mask), alone)
    nothing = hidden_loss(student, teacher, torch.zeros(2, 3))
    nothing.backward()
    assert nothing.item() == 0 and not student.grad.any()


def test_half_precision_is_computed_in_float32():
    student, teacher = draw(2, 3, 4).bfloat16(), draw(2, 3, 4, seed=1).half()
    exact = hidden_loss(student.float(), teacher.float())
    assert hidden_loss(student, teacher).dtype == torch.float32
    assert hidden_loss(student, teacher) == exact
    with torch.autocast("cpu", torch.bfloat16):
        kinds = relation_loss([student] * 3, [teacher] * 3, 2)
    assert kinds == relation_loss([student.float()] * 3, [teacher.float()] * 3, 2)


def test_relation_heads_divide_both_widths():
    assert choose_relation_heads(128, 384) == 8  # of 16 and of 48 numbers
    assert choose_relation_heads(768, 768) == 48
    assert choose_relation_heads(8, 12) == 1
    assert choose_relation_heads(128, 384, 64) == 64
    with pytest.raises(BortError, match=r"=12 must divide .* 128 .* 384; use 4, 8, 16"):
        choose_relation_heads(128, 384, 12)
