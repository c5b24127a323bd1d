"""The losses of embeddings, against NumPy and at the points where they must be zero."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from bort.config.distill import DistillConfig
from bort.embeddings.losses import (
    compute_cosines,
    compute_direction_loss,
    compute_embedding_losses,
    compute_matrix_loss,
)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(5, 3, requires_grad=True), torch.randn(5, 4)


def test_directions(pair):
    student, teacher = pair[0], torch.randn(5, 3)
    cosines = np.diag(cosine_similarity(student.detach(), teacher))
    assert compute_direction_loss(student, teacher).item() == pytest.approx((1 - cosines).mean())
    total = compute_direction_loss(student, teacher, "sum").item()
    assert total == pytest.approx((1 - cosines).sum(), rel=1e-5)
    assert compute_direction_loss(student, 7 * student).item() == pytest.approx(0, abs=1e-6)
    assert compute_direction_loss(student, -student).item() == pytest.approx(2)


def test_cosines_of_all_pairs(pair):
    student, teacher = pair
    ours, theirs = cosine_similarity(student.detach()), cosine_similarity(teacher)
    np.testing.assert_allclose(compute_cosines(teacher).numpy(), theirs, atol=1e-6)
    pairs = ~np.eye(5, dtype=bool)
    expected = ((ours - theirs)[pairs] ** 2).mean()
    assert compute_matrix_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    total = compute_matrix_loss(student, teacher, "sum").item()
    assert total == pytest.approx(5 * expected, rel=1e-5)
    alike = torch.cat([student, student], dim=1)  # the same cosines in another width
    loss = compute_matrix_loss(student, alike.detach())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9) and student.grad.abs().max() < 1e-4
    assert compute_matrix_loss(student[:1], teacher[:1]).item() == pytest.approx(0, abs=1e-9)


def test_weights(pair):
    student, teacher = pair
    projected = student @ torch.randn(3, 4)
    parts = {}
    for w_kd, w_relation in ((1.0, 0.0), (0.0, 2.0), (0.5, 2.0)):
        distill = DistillConfig(w_kd=w_kd, w_relation=w_relation)
        losses = compute_embedding_losses(student, projected, teacher, distill, "mean")
        assert set(losses) == {"loss"} | ({"kd_loss"} if w_kd else set()) | (
            {"relation_loss"} if w_relation else set()
        )
        parts |= losses
    expected = 0.5 * parts["kd_loss"] + 2 * parts["relation_loss"]
    assert parts["loss"].item() == pytest.approx(expected.item())
