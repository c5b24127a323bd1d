"""A teacher of embeddings of any family: what it computes, and what is kept of it."""

import numpy as np
import pytest
import torch
from embeddings_layout import write_layout
from teacher_folders import make_folder
from tiny_runs import log_lines
from transformers import AutoModel, AutoTokenizer

from bort.embeddings import teacher as module
from bort.embeddings.teacher import keep_embeddings, open_sentence_teacher
from bort.errors import BortError

LINES = ["Line 3: the cube of 3 is 27", "the cube", "Line 1: the cube of 1 is 1, and so on"]


def embed_by_hand(folder, texts, mode, length):
    """By transformers, in float64, a text at a time."""
    model = AutoModel.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=length)
        with torch.no_grad():
            states = model(inputs["input_ids"]).last_hidden_state[0]
        row = states[0] if mode == "cls" else states.mean(0)
        rows.append((row / row.norm()).numpy())
    return np.array(rows)


CASES = [("bert", "mean"), ("mpnet", "mean"), ("mpnet", "cls")]


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_embeddings_of_every_family(tmp_path, family, mode):
    folder = tmp_path / "s"
    make_folder(folder, family)
    write_layout(folder, cls_token=mode == "cls", mean_tokens=mode == "mean")
    teacher = open_sentence_teacher(str(folder), 8)
    vectors = teacher.embed(LINES)
    np.testing.assert_allclose(vectors, embed_by_hand(folder, LINES, mode, 8), atol=1e-5)
    assert vectors.dtype == np.float32 and not teacher.in_bf16


def test_a_transformer_in_a_folder_of_its_own(tmp_path):
    folder, encoder = tmp_path / "s", tmp_path / "s" / "0_Transformer"
    make_folder(encoder, "bert")
    write_layout(folder, encoder="0_Transformer", mean_tokens=True)
    vectors = open_sentence_teacher(str(folder), 16).embed(LINES)
    np.testing.assert_allclose(vectors, embed_by_hand(encoder, LINES, "mean", 16), atol=1e-5)


def test_embeddings_are_computed_once(teacher, monkeypatch):
    texts = [f"the cat sees line {k}" for k in range(9)]
    opened = open_sentence_teacher(str(teacher), 16)
    first = keep_embeddings(opened, texts)
    assert first.dtype == np.float16
    np.testing.assert_allclose(first, opened.embed(texts), atol=1e-3)
    monkeypatch.setattr(module, "embed_texts", lambda *_: pytest.fail("computed again"))
    lines = log_lines()
    np.testing.assert_array_equal(keep_embeddings(opened, texts), first)
    assert "teacher: 9 texts were embedded before" in lines
    monkeypatch.undo()
    shorter = open_sentence_teacher(str(teacher), 5)
    assert shorter.length == 5 and not np.array_equal(keep_embeddings(shorter, texts), first)


def test_no_texts_and_no_pooling(teacher, student):
    with pytest.raises(BortError, match="there are no texts"):
        open_sentence_teacher(str(teacher), 16).embed([])
    with pytest.raises(BortError, match="has no modules.json"):
        open_sentence_teacher(str(student), 16)
