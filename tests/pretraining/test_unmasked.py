"""Runs that learn final states and relations of unmasked text, most of them without any head."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretraining_helpers import rows
from safetensors.torch import load_file
from tiny_runs import log_lines, open_batches, stopping
from transformers import AutoModel, BertModel

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig
from bort.console import data_size
from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_masked_lm, load_model, load_tokenizer, save_model
from bort.models.initialization import build_model
from bort.pretraining.dry_run import show
from bort.pretraining.module import DistillationModule
from bort.pretraining.recipe import build_student, prepare, pretrain, settle_by_teacher, train
from bort.pretraining.state_losses import hidden_loss
from bort.report import build_settings, list_results
from bort.runs.closing import print_result
from bort.runs.folder import RunFolder
from bort.runs.loaded import load_run
from bort.teachers.bert_teacher import BertTeacher
from bort.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def headless(tmp_path_factory) -> Path:
    """An encoder of 300 words and 32 positions, without a masked-LM head."""
    words = [f"Line {k}: the cube of {k} is {k**3}" for k in range(60)]
    sizes = ModelConfig(**vars(Arch(2, 2, 32, 64)), vocab_size=300, positions=32)
    model = build_model(sizes, "paper", seed=5)
    for parameter in model.parameters():  # or all states would look alike
        parameter.data.mul_(6)
    folder = tmp_path_factory.mktemp("model") / "headless"
    save_model(model.encoder, train_tokenizer(words, 300), folder)
    return folder


@pytest.fixture(scope="module")
def done(settings_of, headless, tmp_path_factory):
    """A finished run with such a teacher and nothing said of the losses."""
    run = settings_of(
        *(f"teacher.name={headless}", "trainer.max_steps=40", "trainer.val_check_interval=10"),
        experiment="kd_pretrain",
    )
    folder, lines = tmp_path_factory.mktemp("runs") / "done", log_lines()
    summary = pretrain(run, folder)
    print_result(run, folder, summary, "kd_pretrain")
    return run, folder, lines


def test_without_a_head_final_states_are_learnt(done, headless):
    run, folder, lines = done
    settings = json.loads((folder / "settings.json").read_text())
    assert [settings[f"distill.{key}"] for key in ("w_kd", "w_mlm", "w_hidden")] == [0, 0, 1]
    assert settings["init"] == "teacher"
    summary = RunFolder(folder).find_summary()
    assert not {"val/loss", "val/mlm_accuracy", "val/kd_loss"} & summary.keys()
    losses = [float(row["val/hidden_loss"]) for row in rows(folder) if row["val/hidden_loss"]]
    assert losses[-1] == summary["val/hidden_loss"] < 0.7 * losses[0]
    assert float(rows(folder)[0]["train/loss"]) == float(rows(folder)[0]["train/hidden_loss"])
    assert summary["tokens"] == (6 * 45 + 32) * 16  # six epochs of six batches, and four more
    assert not (folder / "samples.txt").exists()
    assert summary["teacher"] == str(headless)
    said = "\n".join(lines)
    assert "val hidden loss 0." in said and "(AutoModel.from_pretrained opens it)" in said
    assert RunFolder(folder).find_result(run) is not None  # what is left open is as it was


def test_the_page_shows_only_what_the_run_has(done):
    """Word frequencies stand beside no loss on masked words, and no teacher was trained first."""
    run, folder, _ = done
    loaded = load_run(folder)
    assert loaded.summary.unigram_loss is not None
    names = [name for _, name in list_results(loaded)]
    assert "val/hidden_loss" in names and not [n for n in names if "word" in n]
    assert "tokens of the longest input it takes, as its teacher does" in names
    rows = build_settings(loaded).split("<details>")[0]
    assert "teacher.name" in rows and "teacher.lr" not in rows and "teacher.arch" not in rows


def test_what_is_saved_has_no_head(done):
    _, folder, _ = done
    model, summary = folder / "model", RunFolder(folder).find_summary()
    assert json.loads((model / "config.json").read_text())["architectures"] == ["BertModel"]
    weights = load_file(model / "model.safetensors")
    assert not [name for name in weights if not name.startswith("bert.")]
    assert sum(w.numel() for w in weights.values()) == summary["parameters"] + 16  # a token type
    with pytest.raises(BortError, match="usable as an encoder, not as a teacher"):
        load_masked_lm(folder)
    with pytest.raises(
        BortError, match="without a trained head; train.py exper.*AutoModel opens it"
    ):
        load_model(folder)
    ours, theirs = load_masked_lm(folder, head_required=False), AutoModel.from_pretrained(model)
    assert isinstance(theirs, BertModel)
    ids = torch.tensor([[2, 5, 6, 7, 8, 9, 3]])
    with torch.no_grad():
        states = theirs.eval()(ids).last_hidden_state
        torch.testing.assert_close(ours.eval().encode(ids), states, atol=1e-5, rtol=1e-4)


def test_rows_of_positions_keep_what_the_teacher_has_learnt(settings_of, headless, tmp_path):
    """A student states the teacher's length where it took its rows: it is as near to it there."""
    run = settings_of(
        *(f"teacher.name={headless}", "optim.lr=3e-4", "trainer.max_steps=20"),
        "arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}",
        experiment="kd_pretrain",
    )
    corpus, teacher = prepare(run)
    ids = torch.from_numpy(corpus.train[: 20 * 30].reshape(20, 30).astype("int64"))
    losses = {}
    for start in ("teacher", "default"):
        pretrain(replace(run, init=start), tmp_path / start)
        student = load_masked_lm(tmp_path / start, head_required=False).eval()
        with torch.no_grad():
            losses[student.config.limit] = [
                hidden_loss(student.encode(x), teacher.compute_states(x)).item()
                for x in (ids[:, :16], ids)
            ]
    assert losses.keys() == {run.data.length, 32}
    assert max(losses[32]) < 0.05 < 0.3 < min(losses[16])


@pytest.mark.parametrize("weights", ["{w_hidden: 1}", "{w_hidden: 1, w_mlm: 1, w_relation: 0.5}"])
def test_a_stopped_run_resumes_bit_by_bit(settings_of, headless, tmp_path, weights):
    run = settings_of(
        *(f"teacher.name={headless}", f"distill={weights}", "dropout=0.1"),
        *("trainer.max_steps=12", "trainer.val_check_interval=5", "checkpoint_every=1000"),
        experiment="kd_pretrain",
    )
    corpus, teacher = prepare(run)
    run = settle_by_teacher(run, tmp_path / "none", teacher)
    train(run, tmp_path / "whole", corpus, teacher)
    with pytest.raises(SystemExit):
        train(stopping(run, 7), tmp_path / "cut", corpus, teacher)
    checkpoint = next((tmp_path / "cut/checkpoints").glob("*.ckpt"))
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state["projection.weight"].shape == (32, 16)
    train(run, tmp_path / "cut", corpus, teacher)
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_all_losses_together(settings_of, named_model, tmp_path):
    """A batch holds the masked and the unmasked text, and the loss is the weighted sum."""
    weights = {"w_kd": 0.5, "w_mlm": 0.25, "w_hidden": 2.0, "w_relation": 3.0}
    given = [f"distill.{key}={value}" for key, value in weights.items()]
    run = settings_of(f"teacher.name={named_model}", *given, experiment="kd_pretrain")
    summary = pretrain(run, tmp_path / "run")
    scores = {"loss", "mlm_accuracy", "kd_loss", "teacher_entropy", "hidden_loss", "relation_loss"}
    assert {f"val/{name}" for name in scores} <= summary.keys()
    for row in rows(tmp_path / "run"):
        losses = {key: float(row[f"train/{key.replace('w_', '')}_loss"]) for key in weights}
        total = sum(weights[key] * loss for key, loss in losses.items())
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
    assert load_masked_lm(tmp_path / "run")  # the head was trained


def test_four_small_batches_are_one_large(settings_of, headless, tmp_path):
    """Batches of unequal size: an epoch ends with what is left of its texts."""
    given = [f"teacher.name={headless}", "optim=adamw", "trainer.max_steps=9"]
    weights = []
    for size, group in ((8, 1), (2, 4)):
        run = settings_of(
            *given,
            *(f"data.batch_size={size}", f"trainer.accumulate_grad_batches={group}"),
            experiment="kd_pretrain",
        )
        pretrain(run, tmp_path / str(size))
        weights.append(load_file(tmp_path / str(size) / "model/model.safetensors"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=2e-5, rtol=1e-3)


def test_states_that_are_read_again_are_kept(settings_of, headless, tmp_path, monkeypatch):
    """They are in half precision, and both runs end nearly alike."""
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "cache"))
    given = [f"teacher.name={headless}", "trainer.max_steps=20", "trainer.val_check_interval=5"]
    losses = {}
    for budget in (0, 1):
        run = settings_of(*given, f"distill.states_gb={budget}", experiment="kd_pretrain")
        losses[budget] = pretrain(run, tmp_path / str(budget))["val/hidden_loss"]
        files = sorted((tmp_path / "cache/states").glob("*.f16"))
        assert len(files) == 2 * budget  # of the training and of the validation text
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]
    corpus, _ = prepare(run)
    sizes = {file.stat().st_size for file in files}
    batches = open_batches(corpus, run.data, run.seed)
    counts = (batches.train.sequences.count, len(batches.val.chosen))
    assert sizes == {count * 16 * 32 * 2 for count in counts}
    lines = log_lines()
    show(run, tmp_path / "plan")
    (line,) = [line for line in lines if "distill.states_gb=1" in line]
    assert f"{data_size(sum(sizes))} there for states of the teacher" in line


def test_what_a_headless_teacher_cannot_give(settings_of, headless):
    run = settings_of(f"teacher.name={headless}", "distill.w_kd=1", experiment="kd_pretrain")
    with pytest.raises(BortError, match="gives hidden and relations, but no logits.*w_hidden"):
        prepare(run)
    compared = settings_of(f"teacher.name={headless}", experiment="kd_vs_mlm")
    with pytest.raises(BortError, match="no logits: it lacks a masked-LM head; experiment=kd_pre"):
        prepare(compared)


def test_relations_are_asked_of_a_family_that_has_them(headless):
    student = build_model(ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=300))
    teacher = BertTeacher(load_masked_lm(headless, head_required=False), "folder", has_head=False)
    weights = DistillConfig(w_relation=1.0)
    assert DistillationModule(student, teacher, OptimConfig(), weights).relation_heads == 1
    with pytest.raises(BortError, match="relation_layer=2: the teacher's layers are 0 to 1, or -2"):
        DistillationModule(student, teacher, OptimConfig(), replace(weights, relation_layer=2))
    with pytest.raises(BortError, match="relation_heads=3 must divide"):
        DistillationModule(student, teacher, OptimConfig(), replace(weights, relation_heads=3))
    teacher.gives = frozenset({"hidden"})
    with pytest.raises(BortError, match="gives hidden, but no relations.*use distill.w_hidden"):
        DistillationModule(student, teacher, OptimConfig(), weights)
    with pytest.raises(BortError, match="w_relation is above 0 but there is no teacher"):
        DistillationModule(student, None, OptimConfig(), weights)


def test_equal_widths_need_no_projection(headless):
    teacher = load_masked_lm(headless, head_required=False)
    student = build_model(ModelConfig(**vars(Arch(1, 2, 32, 32)), vocab_size=300))
    module = DistillationModule(student, teacher, OptimConfig(), DistillConfig(w_hidden=1.0))
    assert module.projection is None
    module.model.encoder = teacher.encoder
    module.keep_outside("encoder", teacher.encoder)
    texts = torch.randint(5, 300, (2, 9))
    assert module.compare_texts({"texts": texts})["hidden_loss"].item() == pytest.approx(
        0, abs=1e-6
    )


def test_the_teacher_runs_once_for_states_and_relations(headless):
    model = build_model(ModelConfig(1, 2, 16, 32, vocab_size=300, positions=32), "paper", seed=0)
    teacher, passes = BertTeacher(load_masked_lm(headless, head_required=False)), []
    teacher.masked_lm.encoder.embeddings.register_forward_hook(lambda *_: passes.append(1))
    texts = {"texts": torch.arange(20).view(2, 10)}
    losses = {}
    for weights in ({"w_hidden": 1.0}, {"w_relation": 1.0}, {"w_hidden": 1.0, "w_relation": 1.0}):
        distill = DistillConfig(w_kd=0.0, **weights)
        module = DistillationModule(model.eval(), teacher, OptimConfig(lr=4e-3), distill).eval()
        passes.clear()
        losses[len(losses)] = module.compare_texts(texts)
        assert len(passes) == 1
    hidden, relation, both = losses.values()
    assert both == {**relation, **hidden} and set(both) == {"relation_loss", "hidden_loss"}


def test_an_older_run_resumes_as_it_began(settings_of, named_model, tmp_path):
    """It knows no hidden states, and its student did not start from the teacher's."""
    run = settings_of(f"teacher.name={named_model}", experiment="kd_pretrain")
    assert run.settle().init == "teacher"
    folder = RunFolder(tmp_path / "run")
    folder.begin(replace(run, init="default", distill=DistillConfig(w_kd=1.0)), None)
    record = json.loads(folder.settings_file.read_text())
    gone = ("w_hidden", "w_relation", "relation_layer", "relation_heads", "states_gb")
    for key in ("init_layers", "data.packing", *(f"distill.{name}" for name in gone)):
        record.pop(key)
    folder.settings_file.write_text(json.dumps(record))
    folder.check_settings(run)
    settled = settle_by_teacher(run, folder.path, None)
    assert (settled.init, settled.distill.w_kd, settled.distill.w_hidden) == ("default", 1.0, 0.0)
    with pytest.raises(BortError, match="init=default, now teacher"):
        folder.check_settings(replace(run, init="teacher"))


def test_a_named_teacher_is_what_a_student_starts_from(settings_of, named_model, tmp_path):
    """Also where nothing else is learnt from it; `init=default` leaves it."""
    run = settings_of(f"teacher.name={named_model}")  # plain MLM
    assert run.settle().init == "teacher" and run.needs_teacher
    corpus, teacher = prepare(run)
    student = build_student(run.settle(), corpus, teacher)
    words = teacher.masked_lm.encoder.embeddings.words.weight
    ours = student.encoder.embeddings.words.weight
    u, s, vh = torch.linalg.svd(words, full_matrices=False)
    best = u[:, :16] * s[:16] @ vh[:16]
    torch.testing.assert_close(ours @ ours.T, best @ best.T, atol=1e-3, rtol=1e-3)
    fresh = settings_of(f"teacher.name={named_model}", "init=default")
    assert not fresh.needs_teacher and settings_of().init == "default"
    assert load_tokenizer(named_model)
