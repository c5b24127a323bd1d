"""The module that teaches embeddings: its projection, its losses, its validation."""

import numpy as np
import pytest
import torch

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig, width_lr
from bort.embeddings.embedder import make_embedder
from bort.embeddings.module import AGREEMENT, BASE_LR, EmbeddingModule, build_projection
from bort.embeddings.scores import compare_cosines
from bort.models.huggingface import load_masked_lm


@pytest.fixture
def model(student):
    return make_embedder(load_masked_lm(student, head_required=False).encoder)


def make_module(model, width: int) -> EmbeddingModule:
    held = np.random.default_rng(0).normal(size=(6, width)).astype(np.float16)
    return EmbeddingModule(model, OptimConfig(), DistillConfig(w_kd=1, w_relation=1), held)


def test_the_projection_is_thrown_away(model):
    """It is trained, but is no part of the model; equal widths need none."""
    module = make_module(model, 24)
    trained = {name for name, _ in module.named_parameters() if not name.startswith("model.")}
    assert trained == {"projection.weight"} and module.projection.weight.shape == (24, 16)
    assert not any("projection" in name for name in model.state_dict())
    assert make_module(model, 16).projection is None and build_projection(3, 3) is None
    assert module.optim.lr == pytest.approx(width_lr(16, BASE_LR))
    assert module.scores[0] == module.metric == AGREEMENT


def test_a_validation_compares_all_held_out_texts(model, monkeypatch):
    module = make_module(model, 24).eval()
    logged = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    monkeypatch.setattr(module, "log_validation", logged.update)
    ids = torch.arange(5, 53).reshape(6, 8)
    module.on_validation_epoch_start()
    losses = []
    with torch.no_grad():
        for rows in ([4, 1, 0], [2, 3, 5]):
            batch = {"input_ids": ids[rows], "attention_mask": torch.ones(3, 8).long()}
            batch |= {"teacher": torch.from_numpy(module.held[rows]), "rows": torch.tensor(rows)}
            module.validation_step(batch, 0)
            losses.append(module.compute_losses(batch, "sum")["loss"].item())
        vectors = model(ids).numpy()
    module.on_validation_epoch_end()
    expected = compare_cosines(vectors, module.held.astype(np.float32))
    assert logged[AGREEMENT] == pytest.approx(expected, abs=1e-6)
    assert logged["val/loss"] == pytest.approx(sum(losses) / 6, rel=1e-5)
    assert module.validation == logged
