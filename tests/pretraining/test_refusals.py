"""What a teacher, a model and their settings cannot do together is one line before any work."""

from pathlib import Path

import pytest
import torch
from teacher_folders import make_folder
from tiny_runs import log_lines
from transformers import AutoModel

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_tokenizer, save_model
from bort.models.initialization import build_model
from bort.pretraining import dry_run
from bort.pretraining.kd_vs_mlm import compare
from bort.pretraining.recipe import build_student, prepare, pretrain
from bort.pretraining.teacher import build_teacher_run
from bort.search import dry_run as search_plan
from bort.search.sweep import open_sweep
from bort.teachers.opening import open_teacher
from bort.text.trimming import map_tokens


@pytest.fixture(scope="module")
def models(tmp_path_factory, named_model) -> dict[str, Path]:
    """Teachers and models: mpnet and bert without a head, mpnet with one, and BERT-like ones.

    `named` has 300 words, and `padded` has two further rows for words.
    """
    home = tmp_path_factory.mktemp("models")
    make_folder(home / "mpnet", "mpnet")
    make_folder(home / "headless", "mpnet", AutoModel)
    make_folder(home / "bert", "bert", AutoModel)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=302, positions=32)
    save_model(build_model(sizes), load_tokenizer(named_model), home / "padded")
    names = ("mpnet", "headless", "bert", "padded")
    return {name: home / name for name in names} | {"named": named_model}


HEADS = "must divide the student's hidden size 16 and the teacher's"
LAYERS = r"init_layers=\[0\]: layers are copied only where H, A and I are equal"
ROWS = "^model=.* has 302 rows for words, "
RELATIONS = "distill.w_relation=1 distill.relation_heads=3"
CASES = [
    # shapes
    ("kd_pretrain", f"teacher.name={{named}} {RELATIONS}", HEADS),
    ("kd_pretrain", f"teacher.name={{bert}} {RELATIONS}", HEADS),
    ("kd_pretrain", RELATIONS, f"{HEADS} 32"),
    ("kd_pretrain", "distill.w_relation=1 distill.relation_layer=1", "layers are 0 to 0, or -1"),
    ("kd_pretrain", "teacher.name={named} init_layers=[0] arch.hidden=32", LAYERS),
    ("kd_pretrain", "teacher.name={mpnet} init_layers=[0]", f"{LAYERS}.*is of another family"),
    ("kd_pretrain", "init=teacher init_layers=[0]", f"{LAYERS}.*the teacher has ⟨1,2,32,64⟩"),
    ("mlm_pretrain", "teacher.name={mpnet} init_layers=[0]", LAYERS),
    ("kd_vs_mlm", "teacher.name={mpnet} init_layers=[0]", LAYERS),
    ("kd_pretrain", "teacher.name={padded} init_layers=[1]", r"=\[1\]: .* layers are 0 to 0"),
    # heads
    (
        "kd_vs_mlm",
        "teacher.name={headless}",
        "no logits: it lacks .*; experiment=kd_pretrain learns",
    ),
    ("kd_pretrain", "teacher.name={headless} distill.w_kd=1", "no logits.*use distill.w_hidden"),
    ("kd_pretrain", "teacher.name={headless} distill.w_hidden=0", "no logits.*use distill.w_hi"),
    # vocabularies
    (
        "kd_pretrain",
        "model={named} teacher.name={mpnet}",
        r"^model=.* and teacher.name=.* have different vocabularies \(300 and 1\d\d words, and \d+ "
        r"words differ\); use a teacher with the words of the model",
    ),
    ("kd_pretrain", "model={padded} teacher.name={named}", f"{ROWS}teacher.name=.* 300; w_kd"),
    ("kd_pretrain", "model={padded}", f"{ROWS}the teacher trained for it 300; w_kd"),
]


@pytest.mark.parametrize(("experiment", "words", "message"), CASES)
def test_a_run_and_its_plan_refuse_alike(
    settings_of, models, tmp_path, monkeypatch, experiment, words, message
):
    run = settings_of(*words.format(**models).split(), experiment=experiment)
    start = compare if experiment == "kd_vs_mlm" else pretrain
    for module in ("recipe", "kd_vs_mlm"):
        target = f"bort.pretraining.{module}.settle_precision"
        monkeypatch.setattr(target, lambda *_: pytest.fail("timed before the refusal"))
    monkeypatch.setattr(
        "bort.pretraining.recipe.build_corpus", lambda *_: pytest.fail("work before the refusal")
    )
    for begin in (dry_run.show, start):
        with pytest.raises(BortError, match=message) as error:
            begin(run, tmp_path / "run")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "search.objective=error search.proxy=words",
            "^search.proxy=words asks its teacher .* no logits.*search.proxy=states compares",
        ),
        ("search.objective=w", "^search.objective=w is for W, and search.proxy=states has none"),
        (
            "search.objective=error distill.w_mlm=1",
            "^distill.w_mlm=1 is for search.proxy=words; search.proxy=states learns",
        ),
    ],
)
def test_a_search_and_its_plan_refuse_alike(
    search_of, models, tmp_path, monkeypatch, words, message
):
    """Without masked words there are final states, no W, and no loss on words."""
    monkeypatch.setattr(
        "bort.search.sweep.settle_precision", lambda *_: pytest.fail("timed before the refusal")
    )
    run = search_of(f"teacher.name={models['headless']}", *words.split())
    with pytest.raises(BortError, match=message):
        with open_sweep(run, tmp_path / "run"):
            pass
    with pytest.raises(BortError, match=message):
        search_plan.show(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_stands_in_for_logits_is_told(settings_of, models, tmp_path):
    """In the plan and in the run, before anything else."""
    run = settings_of(f"teacher.name={models['headless']}", experiment="kd_pretrain")
    for begin in (lambda: dry_run.show(run, tmp_path / "run"), lambda: prepare(run)):
        lines = log_lines()
        begin()
        assert lines[0].endswith(
            "has no masked-LM head, so its final states are learnt: distill.w_hidden=1 in place of "
            "w_kd"
        )
    lines = log_lines()
    prepare(settings_of(f"teacher.name={models['mpnet']}", experiment="kd_pretrain"))
    assert not [line for line in lines if "in place of" in line]


def test_other_special_tokens_are_other_words(models):
    """A vocabulary of BERT may be a part of MPNet's, but [CLS] begins no text of MPNet."""
    full = load_tokenizer(models["bert"])
    other = load_tokenizer(models["bert"])
    assert map_tokens(other, full) is not None
    other.cls_token = full.sep_token
    assert map_tokens(other, full) is None


def test_a_head_that_is_not_trained_is_not_mentioned(settings_of, models):
    said = log_lines()
    words = [f"model={models['bert']}", f"teacher.name={models['bert']}"]
    run = settings_of(*words, "distill.w_hidden=1", experiment="kd_pretrain")
    corpus, teacher = prepare(run)
    build_student(run, corpus, teacher)
    assert not [line for line in said if "fresh one" in line]


# ------------------------------------------------------------------------------------ reading once


@pytest.mark.parametrize("size", [None, 270])
def test_teacher_and_tokenizer_are_read_once(settings_of, named_model, tmp_path, monkeypatch, size):
    """Also where the vocabulary is trimmed and the teacher scored with all of its words."""
    counts = {"open_teacher": 0, "load_tokenizer": 0}
    for name, function in (("open_teacher", open_teacher), ("load_tokenizer", load_tokenizer)):

        def count(*inputs, name=name, function=function):
            counts[name] += 1
            return function(*inputs)

        monkeypatch.setattr(f"bort.pretraining.teacher.{name}", count)
    words = [] if size is None else [f"data.vocab_size={size}"]
    run = settings_of(f"teacher.name={named_model}", *words, experiment="kd_pretrain")
    summary = pretrain(run, tmp_path / "run")
    assert counts == {"open_teacher": 1, "load_tokenizer": 1}
    assert ("teacher_full_loss" in summary) == (size is not None)
    whole = open_teacher(named_model)
    assert summary["teacher_parameters"] == whole.parameter_count  # whatever the student reads


def test_parts_of_a_teacher_know_what_they_were_made_of(models, named_model):
    for name in ("named", "mpnet"):
        teacher = open_teacher(models[name])
        ids = torch.arange(teacher.vocab_size - 4)
        part = teacher.select_words(ids)
        assert teacher.origin is None and part.origin is teacher
        assert part.select_words(ids[:-4]).origin is part


# ------------------------------------------------------------------------------------ the memory


def test_the_plan_counts_the_teacher_in_memory(settings_of, models):
    """4 bytes a weight, and 2 more for the copy that steps in bf16 ask."""
    size = open_teacher(models["mpnet"]).parameter_count
    for precision, bytes_a_weight in (("32-true", 4), ("bf16-mixed", 6)):
        words = [f"teacher.name={models['mpnet']}", f"trainer.precision={precision}"]
        run = settings_of(*words, experiment="kd_pretrain")
        outlook = dry_run.look_ahead(run)
        teacher = dry_run.estimate_teacher_bytes(run, outlook)
        assert teacher == bytes_a_weight * size
        total = dry_run.estimate_bytes(run.settle(), outlook)
        alone = dry_run.estimate_training_bytes(run.settle(), outlook.vocab)
        assert total == alone + teacher


def test_a_teacher_that_is_trained_first_may_need_the_most(settings_of):
    run = settings_of("teacher.batch_size=4096", experiment="kd_pretrain").settle()
    outlook = dry_run.look_ahead(run)
    first = dry_run.estimate_training_bytes(build_teacher_run(run), outlook.vocab)
    assert dry_run.estimate_bytes(run, outlook) == first
    assert dry_run.estimate_training_bytes(run, outlook.vocab) < first / 10
