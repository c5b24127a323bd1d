"""Encoders and whole models through onnxruntime, at other shapes than they were traced with."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from bort.errors import BortError
from bort.export import run as export
from bort.export.forms import Form, Inputs, draw_inputs, run_torch
from bort.models import onnx
from bort.models.arch import Arch
from bort.models.bert import ACTIVATIONS, HEADS, Classifier, MaskedLM, ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_classifier, build_model
from bort.text.tokenizer import train_tokenizer

ARCH = Arch(2, 2, 32, 64)


@pytest.fixture(scope="module")
def encoder():
    sizes = ModelConfig(**vars(ARCH), vocab_size=60, positions=64)
    return build_model(sizes, "default", 0).encoder.eval()


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.2)])
def test_encoder(encoder, tmp_path, int8, tolerance):
    onnx.export_encoder(encoder, tmp_path / "encoder.onnx", int8)
    session = onnx.open_session(tmp_path / "encoder.onnx", threads=1)
    differences = []
    for shape in ((1, 2), (1, 64), (8, 7), (3, 32)):
        ids = torch.randint(2, 60, shape, generator=torch.Generator().manual_seed(0))
        (found,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            expected = encoder(ids)
        assert found.shape == tuple(expected.shape)
        differences.append((torch.from_numpy(found) - expected).abs().max().item())
    assert max(differences) < tolerance
    assert not int8 or min(differences) > 1e-5  # it was quantized


# ------------------------------------------------------------------------------------ whole models

KINDS = ("masked words", "classes", "number", "choices", "marked words")
# A trace takes 3 s. Five models are each kind, ten are each in both families;
# BORT_RANDOM_MODELS=30 runs more.
COUNT = int(os.environ.get("BORT_RANDOM_MODELS", "5"))


def random_model(number: int) -> MaskedLM | Classifier:
    """Of the kinds in turn, the next in the other style, BERT's or RoBERTa's; else by chance."""
    random = np.random.default_rng(number)
    kind, roberta = KINDS[number % 5], number % 2
    heads = int(random.integers(1, 5))
    sizes = ModelConfig(
        depth=int(random.integers(1, 4)),
        heads=heads,
        hidden=heads * int(random.integers(-(-8 // heads), 64 // heads + 1)),
        intermediate=int(random.integers(8, 129)),
        vocab_size=int(random.integers(300, 601)),
        positions=int(random.integers(17, 81)),
        position_offset=2 * roberta,
        type_vocab=int(random.integers(0, 2)) * (1 if roberta else 2),
        activation=str(random.choice(list(ACTIVATIONS))),
    )
    model = build_model(sizes, "paper", number)
    if kind != "masked words":
        outputs = {"classes": int(random.integers(2, 6)), "marked words": 2}.get(kind, 1)
        spans = 2 if kind == "marked words" else 0
        model = build_classifier(
            model, outputs, str(random.choice(HEADS)), spans, kind == "choices"
        )
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():  # as of a trained model: large enough that answers differ
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def hugging_face(folder: Path) -> list[Form]:
    """Its own class of this folder; none for marked words, which it has no class for."""
    kind = json.loads((folder / "config.json").read_text())["architectures"][0].partition("For")[2]
    if not kind:
        return []
    theirs = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder).eval()

    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        given = {name: torch.from_numpy(x) for name, x in inputs.items()}
        if kind == "MultipleChoice":  # (B, choices, S)
            given = {name: x[:, None] for name, x in given.items()}
        return theirs(**given).logits.numpy()

    return [run]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([f"the cat of line {k}, and so on." for k in range(40)], 300)


@pytest.mark.parametrize("number", range(COUNT), ids=lambda k: f"{k}-{KINDS[k % 5]}")
def test_random_models(tmp_path, tokenizer, number):
    """bort.export's file at 8 shapes: as the model in memory, and as Hugging Face answers."""
    model = random_model(number)
    outputs = getattr(model, "out", None)
    names = {str(k): f"class {k}" for k in range(outputs.out_features)} if outputs else {}
    save_model(model, tokenizer, tmp_path / "model", {"id2label": names} if names else None)
    export.export(str(tmp_path / "model"), "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    references = [run_torch(model), *hugging_face(tmp_path / "model")]
    limit, answers = model.config.positions, []
    short = [(1, 4), (1, 11), (2, 5), (8, 6)]
    long = [(1, limit), (3, limit // 2), (5, limit - 1), (8, limit)]
    for seed, (batch, length) in enumerate(short + long):
        inputs = draw_inputs(model, tokenizer, batch, length, seed=100 + seed)
        (found,) = session.run(None, inputs)
        real = inputs["attention_mask"].astype(bool) if isinstance(model, MaskedLM) else slice(None)
        for expected in (reference(inputs) for reference in references):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)
        answers += list(found[..., 0].flat)
    assert np.ptp(answers) > 0.1


def test_without_the_packages(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BortError, match="ONNX needs the package onnxruntime; pip install onnx"):
        onnx.export_encoder(encoder, tmp_path / "x.onnx")
