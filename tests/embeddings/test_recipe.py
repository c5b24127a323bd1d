"""A distillation of embeddings from its settings to its folder: learnt, resumed, refused."""

import json

import numpy as np
import pytest
import torch
from tiny_runs import log_lines, stopping
from transformers import AutoModel

import bort
from bort.embeddings import recipe
from bort.embeddings.dry_run import show
from bort.embeddings.module import AGREEMENT
from bort.embeddings.recipe import distil_embeddings
from bort.embeddings.scores import compare_cosines
from bort.embeddings.texts import read_texts, split_texts
from bort.errors import BortError
from bort.report import write_page
from bort.runs.closing import print_result


@pytest.fixture(scope="module")
def done(run_of, scored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    return folder, distil_embeddings(run_of(f"data.root={scored}"), folder)


def test_the_student_learns_the_cosines_of_its_teacher(done, run_of, teacher, texts):
    """On texts that it has not learnt from: the agreement is that of two models by `bort.load`."""
    folder, summary = done
    learnt, held = split_texts(read_texts(run_of().data)[0])
    assert len(held) == 4 and not set(held) & set(learnt)
    student, s = (bort.load(name).encode(learnt) for name in (folder, teacher))
    assert compare_cosines(student, s) > 0.8
    held_vectors = [bort.load(name).encode(held) for name in (folder, teacher)]
    assert summary[AGREEMENT] == pytest.approx(compare_cosines(*held_vectors), abs=0.1)
    np.testing.assert_allclose(np.linalg.norm(student, axis=1), 1, atol=1e-5)
    assert student.shape == (len(learnt), 16)


def test_scores_stand_beside_those_of_others(done, run_of, scored):
    folder, summary = done
    for name in ("val_stsb/spearman", "val_qnli/recall_at_10"):
        for owner in ("", "start/", "teacher/", "words/"):
            assert -1 <= summary[f"{owner}{name}"] <= 1
    assert summary["val_qnli/recall_at_10"] == 1.0
    assert (summary.metric, summary["unlabelled_rows"]) == (AGREEMENT, 95)
    lines = log_lines()
    print_result(run_of(f"data.root={scored}"), folder, summary, "kd_finetune")
    assert any(line.startswith("  teacher   val_stsb/spearman") for line in lines)
    assert any(line.startswith("  words     val_stsb/spearman") for line in lines)
    assert any("format=onnx-int8" in line for line in lines if line.startswith("  next"))
    write_page(folder)
    page = (folder / "report.html").read_text()
    assert "the same model before the training" in page and "the cosine of TF-IDF" in page


def test_the_folder_has_the_layout_of_the_library(done):
    """Its files, as the reader of sentence-transformers asks for them."""
    model = done[0] / "model"
    modules = json.loads((model / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert all({"idx", "name", "path", "type"} == set(module) for module in modules)
    pooling = json.loads((model / "1_Pooling" / "config.json").read_text())
    assert pooling.pop("word_embedding_dimension") == 16
    assert {key for key, flag in pooling.items() if flag} == {"pooling_mode_mean_tokens"}
    lengths = json.loads((model / "sentence_bert_config.json").read_text())
    assert lengths == {"max_seq_length": 16, "do_lower_case": False}
    encoder = AutoModel.from_pretrained(model, add_pooling_layer=False)
    tokens = bort.load(model).tokenizer("the cat sees", return_tensors="pt")
    with torch.no_grad():
        states = encoder(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
    expected = torch.nn.functional.normalize(states.mean(1)).numpy()
    np.testing.assert_allclose(bort.load(model).encode(["the cat sees"]), expected, atol=1e-5)


def test_embeddings_are_those_of_the_library(done):
    library = pytest.importorskip("sentence_transformers")
    texts = ["the cat sees the dog", " a fox ", "", "bee " * 40]
    expected = library.SentenceTransformer(str(done[0] / "model")).encode(texts)
    np.testing.assert_allclose(bort.load(done[0]).encode(texts), expected, atol=1e-5)


def test_a_stopped_run_ends_with_the_same_model(run_of, scored, done, tmp_path, monkeypatch):
    fit = recipe.fit

    def stop(run, *inputs):
        return fit(stopping(run, 20), *inputs)

    run = run_of(f"data.root={scored}")
    monkeypatch.setattr(recipe, "fit", stop)
    with pytest.raises(SystemExit):
        distil_embeddings(run, tmp_path / "run")
    monkeypatch.undo()
    summary = distil_embeddings(run, tmp_path / "run")
    weights = "model/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (done[0] / weights).read_bytes()
    speed = ("seconds", "tokens_per_s")
    assert all(summary[key] == done[1][key] for key in summary if key not in speed)
    monkeypatch.setattr(recipe, "fit", lambda *_: pytest.fail("trained again"))
    assert distil_embeddings(run, done[0]) == done[1]


def test_a_model_of_its_own_learns_too(run_of, student, tmp_path):
    """With one loss alone, and without files that are scored."""
    run = run_of(f"model={student}", "distill.w_relation=1", "trainer.max_steps=3")
    assert (run.distill.w_kd, run.distill.w_relation) == (0, 1)
    summary = distil_embeddings(run, tmp_path / "run")
    assert summary["steps"] == 3 and not [key for key in summary if "stsb" in key]
    assert bort.load(tmp_path / "run").encode(["a cat"]).shape == (1, 16)


def test_mistakes_leave_nothing(run_of, student, texts, scored, tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\nthree")
    for words, message in (
        ([f"teacher.name={student}"], "has no modules.json"),
        (["data.unlabelled=nowhere.txt"], "data.unlabelled=nowhere.txt is not there"),
        ([f"data.unlabelled={tmp_path / 'few.txt'}"], "has 3 texts; give 8 at least"),
        ([f"data.root={tmp_path}"], "has no STS-B/dev.tsv and no QNLI/dev.tsv"),
        (["data.length=100", f"model={student}"], "is longer than the 64 tokens"),
    ):
        for call in (distil_embeddings, show):
            with pytest.raises(BortError, match=message) as caught:
                call(run_of(*words), tmp_path / "run")
            assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
