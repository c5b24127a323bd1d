"""Pre-training with some of the words of a teacher: data.vocab_size= below its vocabulary."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import log_lines
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer

from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.objectives.parameters import count_parameters
from bort.pretraining import dry_run
from bort.pretraining.corpus import build_corpus, open_full_validation
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.recipe import build_student, prepare, pretrain
from bort.pretraining.teacher import measure_loss
from bort.runs.folder import RunFolder
from bort.teachers.opening import open_teacher
from bort.text.trimming import map_tokens

SIZE = 280
SMALL = f"data.vocab_size={SIZE}"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> str:
    """A text in which the teacher's first words are rare and some of its last ones are not."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text("\n".join(f"{k}: {k**3} and {(k + 7) ** 3}" for k in range(80)), "utf-8")
    return f"data.path={path}"


@pytest.fixture(scope="module")
def taught(settings_of, named_model, numbers):
    """Settings of a distillation from a teacher of 300 words to a student of 280."""
    words = [f"teacher.name={named_model}", SMALL, numbers, "arch.hidden=32", "init=teacher"]
    return settings_of(*words, experiment="kd_pretrain")


@pytest.fixture(scope="module")
def done(taught, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("runs") / "trimmed", log_lines()
    return RunFolder(folder), pretrain(taught, folder), list(lines)


def test_the_teacher_reads_and_guesses_the_words_that_stay(taught, named_model):
    corpus, teacher = prepare(taught)
    full, tokenizer = open_teacher(named_model), load_tokenizer(named_model)
    ids = torch.from_numpy(map_tokens(corpus.tokenizer, tokenizer))
    assert teacher.vocab_size == len(ids) == SIZE and full.vocab_size == 300
    assert ids.max() >= SIZE
    batch = ValBatches(corpus, taught.data)[0]
    logits = teacher.compute_logits(batch["input_ids"], batch["positions"])
    expected = full.compute_logits(ids[batch["input_ids"]], batch["positions"])[:, ids]
    torch.testing.assert_close(logits, expected)
    student = build_student(taught, corpus, teacher)
    rows = full.masked_lm.encoder.embeddings.words.weight[ids]
    assert torch.equal(student.encoder.embeddings.words.weight, rows)
    assert torch.equal(student.head.bias, full.masked_lm.head.bias[ids])


def test_what_a_run_leaves(done, taught, named_model):
    folder, summary, lines = done
    assert summary["parameters"] == count_parameters(taught.arch, SIZE, 512)
    assert summary["full_vocab_size"] == 300 and 1 < summary["tokens_per_full_token"] < 1.5
    assert any(line.startswith("corpus: 280 of 300 tokens were taken into") for line in lines)
    losses = summary["teacher_trimmed_loss"], summary["teacher_full_loss"]
    said = f"teacher: {losses[0]:.2f} nats per masked token of held-out text with 280 words, "
    assert f"{said}{losses[1]:.2f} with all of its 300" in lines
    tokenizer = AutoTokenizer.from_pretrained(folder.model)
    model = AutoModelForMaskedLM.from_pretrained(folder.model)
    assert len(tokenizer) == model.config.vocab_size == load_masked_lm(folder).config.vocab_size
    assert len(tokenizer) == SIZE
    text = "Line 7: the cube of 7 is 343"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert pretrain(taught, folder) == summary


def test_the_teacher_is_scored_on_the_same_text_with_all_of_its_words(done, taught, named_model):
    corpus = build_corpus(taught.data, locate_cache(), load_tokenizer(named_model))
    tokenizer, full = load_tokenizer(named_model), open_teacher(named_model)
    whole = open_full_validation(corpus, tokenizer)
    assert tokenizer.decode(whole.val) == corpus.tokenizer.decode(corpus.val)
    assert len(whole.val) == whole.info.val_tokens < len(corpus.val) and not len(whole.train)
    losses = []
    for batch in ValBatches(whole, taught.data):
        logits = full.masked_lm(batch["input_ids"]).flatten(0, 1)[batch["positions"]]
        losses.append(F.cross_entropy(logits, batch["labels"], reduction="none"))
    expected = torch.cat(losses).mean().item()
    assert measure_loss(full, whole, taught.data) == pytest.approx(expected, rel=1e-5)
    assert done[1]["teacher_full_loss"] == pytest.approx(expected, rel=1e-5)
    assert measure_loss(full, whole, replace(taught.data, length=5000)) is None


def test_the_size_decides_the_corpus_and_belongs_to_the_run(taught, done, named_model):
    tokenizer, corpora = load_tokenizer(named_model), []
    for size in (None, SIZE, 270, 300):
        data = replace(taught.data, vocab_size=size)
        corpora.append(build_corpus(data, locate_cache(), tokenizer))
        again = build_corpus(data, locate_cache(), tokenizer)
        assert again.folder == corpora[-1].folder and np.array_equal(again.train, corpora[-1].train)
    whole, trimmed, smaller, same = corpora
    assert whole.folder == same.folder and len({c.folder for c in corpora}) == 3
    assert [c.info.vocab_size for c in corpora] == [300, SIZE, 270, 300]
    assert [c.info.full_vocab_size for c in corpora] == [0, 300, 300, 0]
    assert len(smaller.train) > len(trimmed.train) > len(whole.train)
    assert open_full_validation(whole, tokenizer) is None
    run = replace(taught, data=replace(taught.data, vocab_size=None))
    with pytest.raises(BortError, match=f"data.vocab_size={SIZE}, now None"):
        pretrain(run, done[0])


def test_a_damaged_copy_of_the_held_out_text_is_made_again(taught, named_model, tmp_path):
    tokenizer = load_tokenizer(named_model)
    lines = log_lines()
    corpus = build_corpus(taught.data, tmp_path, tokenizer)
    assert any(line.startswith("corpus: trimming a tokenizer on ") for line in lines)
    file = corpus.folder / "full" / "val.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-2])
    build_corpus(taught.data, tmp_path, tokenizer)
    assert file.read_bytes() == content


def test_runs_of_older_versions_name_a_size_that_they_did_not_use(settings_of, tmp_path):
    run = settings_of("data.tokenizer=bpe", "data.vocab_size=null")
    folder = RunFolder(tmp_path / "run")
    folder.begin(run, None)
    settings = json.loads(folder.settings_file.read_text("utf-8"))
    assert settings["data.vocab_size"] is None
    for size in (8192, 300):
        folder.settings_file.write_text(json.dumps(settings | {"data.vocab_size": size}), "utf-8")
        if size == 8192:
            folder.check_settings(run)
            continue
        with pytest.raises(BortError, match="data.vocab_size=300, now None"):
            folder.check_settings(run)


def test_a_named_tokenizer_is_trimmed_without_a_teacher(settings_of, named_model):
    run = settings_of(f"data.tokenizer={named_model}", SMALL)
    corpus, teacher = prepare(run)
    assert teacher is None and corpus.info.vocab_size == SIZE


def test_a_trimmed_tokenizer_finds_its_words_in_the_whole_teacher(
    done, settings_of, named_model, numbers
):
    """The student's own tokenizer, given by name, is a part of the teacher's."""
    folder = done[0].model
    words = [f"teacher.name={named_model}", f"data.tokenizer={folder}", numbers]
    corpus, teacher = prepare(settings_of(*words, experiment="kd_pretrain"))
    assert teacher.vocab_size == corpus.info.vocab_size == SIZE
    assert corpus.info.full_vocab_size == 0
    smaller = settings_of(*words, "data.vocab_size=270", experiment="kd_pretrain")
    corpus, teacher = prepare(smaller)
    assert teacher.vocab_size == corpus.info.vocab_size == 270


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.vocab_size=301"], "data.vocab_size=301 is above the 300 tokens of the tokenizer"),
        (
            ["data.vocab_size=260"],
            "=260 is too small: the special tokens and the bytes alone are 261",
        ),
        (["data.tokenizer=bpe", SMALL], "has a vocabulary of 300, the student's is 280"),
    ],
)
def test_mistakes(words, message, settings_of, named_model):
    with pytest.raises(BortError, match=message) as error:
        prepare(settings_of(f"teacher.name={named_model}", *words, experiment="kd_pretrain"))
    assert len(str(error.value)) <= 300 and "\n" not in str(error.value)


def test_the_plan_counts_the_words_that_stay(settings_of, named_model, tmp_path):
    words = [f"teacher.name={named_model}", "data.vocab_size=265"]
    run, lines = settings_of(*words, experiment="kd_pretrain"), log_lines()
    dry_run.show(run, tmp_path / "run")
    size = count_parameters(run.arch, 265, 512)
    assert f"  parameters  {size:,} (vocabulary 265)" in lines
    assert "              corpus (to be built)" in "\n".join(lines)
