"""The forms of one model give the same logits."""

import numpy as np
import pytest
from export_models import POOLED

from bort.export.forms import draw_inputs, run_onnx, run_torch
from bort.models.huggingface import load_model

TASKS = ("glue/sst2", "glue/rte", "glue/stsb", "superglue/copa", "superglue/wic")


NAMES = ("mlm", *(name.replace("/", "-") for name in TASKS), *POOLED)


@pytest.mark.parametrize("name", NAMES)
def test_one_file_serves_all_shapes(folders, exported, tokenizer, name):
    """Case E1: batch 1, 2, 8 and every kind of length, with padding."""
    model, _ = load_model(folders / name)
    run, expected = run_onnx(exported / name / "model.onnx"), run_torch(model)
    for seed, (batch, length) in enumerate([(1, 2), (2, 3), (8, 17), (1, 64), (5, 31), (2, 64)]):
        inputs = draw_inputs(model, tokenizer, batch, length, seed)
        mask = inputs["attention_mask"].astype(bool)
        pair = run(inputs), expected(inputs)
        if name == "mlm":
            pair = pair[0][mask], pair[1][mask]
        np.testing.assert_allclose(*pair, atol=1e-4 * max(1, np.abs(pair[1]).max()))
