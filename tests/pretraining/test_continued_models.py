"""Models that are trained further on text of one's own: `model=` in a pre-training."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import log_lines
from transformers import AutoTokenizer

from bort.errors import BortError
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_masked_lm, save_model
from bort.models.initialization import build_model
from bort.pretraining.recipe import build_student, prepare, pretrain
from bort.text.tokenizer import train_tokenizer


def test_a_model_is_continued_from_its_weights(settings_of, named_model, tmp_path):
    """With a rate of about nothing, it is still the model that was given."""
    run = settings_of(f"model={named_model}", "optim.lr=1e-12", "data.length=32")
    summary = pretrain(run, tmp_path / "run")
    start, end = (load_file(p / "model.safetensors") for p in (named_model, tmp_path / "run/model"))
    assert start.keys() == end.keys()
    assert all(torch.allclose(start[name], end[name], atol=1e-6) for name in start)
    assert summary["model"] == str(named_model)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == 32  # not 512 as of a fresh model
    files = [folder / "tokenizer.json" for folder in (named_model, tmp_path / "run" / "model")]
    words = [json.loads(file.read_text())["model"]["vocab"] for file in files]
    assert words[0] == words[1]
    inputs = json.loads((tmp_path / "run" / "corpus.json").read_text())
    assert inputs["models"].keys() == {"model"}
    trained = pretrain(settings_of(f"model={named_model}", "optim.lr=1e-3"), tmp_path / "other")
    assert trained["val/loss"] < summary["val/loss"]


def test_another_model_under_the_same_name_is_not_resumed(settings_of, named_model, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(named_model, start)
    run = settings_of(f"model={start}")
    pretrain(run, tmp_path / "run")
    model = load_masked_lm(start)
    model.head.bias.data += 1
    save_model(model, AutoTokenizer.from_pretrained(start), start)
    with pytest.raises(BortError, match="was started with another model under this name"):
        pretrain(run, tmp_path / "run")
    with pytest.raises(BortError, match="lies in the folder of this run; use another name="):
        pretrain(settings_of(f"model={tmp_path / 'run'}", "resume=false"), tmp_path / "run")
    assert (tmp_path / "run" / "model").is_dir()


def test_an_encoder_without_a_head_gets_a_fresh_one(settings_of, named_model, tmp_path):
    shutil.copytree(named_model, tmp_path / "encoder")
    file = tmp_path / "encoder" / "model.safetensors"
    kept = {name: w for name, w in load_file(file).items() if not name.startswith("cls.")}
    assert len(kept) < len(load_file(file))
    save_file(kept, file, metadata={"format": "pt"})
    said = log_lines()
    run = settings_of(f"model={tmp_path / 'encoder'}")
    corpus, _ = prepare(run)
    student = build_student(run, corpus, None)
    assert said[-1].endswith("has no masked-LM head; a fresh one is trained with it")
    words = load_masked_lm(named_model).encoder.embeddings.words.weight
    assert torch.equal(student.encoder.embeddings.words.weight, words)
    assert pretrain(run, tmp_path / "run")["steps"] == 5


def test_a_continued_model_may_have_a_teacher_of_its_vocabulary(settings_of, named_model, tmp_path):
    run = settings_of(
        f"model={named_model}", f"teacher.name={named_model}", experiment="kd_pretrain"
    )
    summary = pretrain(run, tmp_path / "run")
    assert summary["teacher"] == summary["model"] == str(named_model)
    inputs = json.loads((tmp_path / "run" / "corpus.json").read_text())
    assert inputs["models"]["model"] == inputs["models"]["teacher.name"]
    other = tmp_path / "other"
    sizes = ModelConfig(1, 2, 16, 32, vocab_size=290, positions=32)
    save_model(build_model(sizes), train_tokenizer(["other words here"] * 9, 290), other)
    run = settings_of(f"model={named_model}", f"teacher.name={other}", experiment="kd_pretrain")
    with pytest.raises(BortError, match=r"teacher.name=.*, and \d+ words differ"):
        pretrain(run, tmp_path / "different")
    # the teacher that is trained first reads the words of the model
    run = settings_of(f"model={named_model}", experiment="kd_pretrain")
    _, teacher = prepare(run)
    assert teacher.vocab_size == 300 and teacher.arch == run.teacher.arch


def test_a_model_that_cannot_be_continued_is_one_line(settings_of, named_model, tmp_path):
    with pytest.raises(BortError, match="data.length=64 is longer than the 32 positions of model="):
        pretrain(settings_of(f"model={named_model}", "data.length=64"), tmp_path / "run")
    corpus, _ = prepare(settings_of())  # of a tokenizer of its own
    with pytest.raises(BortError, match="has another vocabulary than this text, which") as error:
        build_student(settings_of(f"model={named_model}"), corpus, None)
    assert len(str(error.value).replace(str(named_model), "")) <= 160
    assert not (tmp_path / "run").exists()


def test_the_longer_length_is_stated(settings_of, named_model, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain(settings_of("data.length=24"), first)
    pretrain(settings_of(f"model={first}", "data.length=16"), second)
    config = json.loads((second / "model" / "config.json").read_text())
    assert config["bort_length"] == 24
    third = settings_of(f"model={second}", "data.length=32")
    corpus, _ = prepare(third)
    assert build_student(third, corpus, None).config.length == 32
