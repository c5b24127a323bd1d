"""Model cards: where a model came from, in words that are safe in Markdown and tell no path."""

import dataclasses
import os
import re
from html import unescape
from pathlib import Path

import pytest

from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.export import card
from bort.export.result import ExportResult
from bort.files.writing import write_json
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_model
from bort.models.huggingface import save_model
from bort.runs import origin

EVIL = (
    "a\n# Heading\r\n| x | y |\n[link](http://evil.example) <script>alert(1)</script> `c` *b* &amp;"
)


@pytest.fixture(scope="module")
def model():
    return build_model(
        ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=32), "paper", 0
    )


def found(**changes) -> ExportResult:
    return dataclasses.replace(ExportResult("hf", 1e-7), **changes)


def test_foreign_words_are_shown_letter_by_letter(model, tmp_path):
    """Line feeds, headings, pipes, links and HTML of settings, scores and folder names."""
    run = {"job": "finetune", "task": EVIL, "model": "m", "seed": EVIL, f"val/{EVIL}": 0.5}
    text = card.format_card(
        model, EVIL, run, tmp_path / EVIL.replace("/", ""), found(float32=[EVIL])
    )
    lines = text.splitlines()
    assert sum(line.startswith("#") for line in lines) == 1
    rows = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") == 3 for line in rows) and len(rows) > 10
    for mark in ("<script", "](", "http://", "`c`", "*b*"):
        assert mark not in text
    assert " ".join(EVIL.split()) in unescape(text)  # nothing is lost, too
    assert (
        card.escape_markdown("train_set.csv of my_run-2, 5% (a+b)")
        == "train_set.csv of my_run-2, 5% (a+b)"
    )
    assert card.escape_markdown("_x_ www.x.org") == "&#95;x&#95; www&#46;x.org"
    assert len(card.escape_markdown("x" * 5000)) == card.LONGEST


def test_a_card_shows_a_command_that_runs_and_what_a_score_is_worth(model, tmp_path):
    few = "val: only 6 rows; one of them is 17% of a score"
    run = {"job": "finetune", "task": "custom", "val/accuracy": 1.0, "rows/val": 6, "doubt": few}
    scores = {"before/accuracy": 1.0, "after/accuracy": 0.5}
    shipped = found(format="onnx", scores=scores)
    text = unescape(card.format_card(model, "m", run, tmp_path, shipped, "'a text' 'and another'"))
    assert "python predict.py 'a text' 'and another'\n" in text
    assert "| val/accuracy | 1.0000 (6 rows) |" in text and few in text
    assert "| val/accuracy before export | 1.0000 |" in text
    assert "| val/accuracy after export | 0.5000 |" in text


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("/home/ada/secret/train.csv", "train.csv"),
        ("~/secret/train.csv", "train.csv"),
        ("../secret/train.csv", "train.csv"),
        ("runs/kd_pretrain/first", "first"),
        ("runs/kd_pretrain/first/model", "first"),
        ("C:\\Users\\ada\\train.csv", "train.csv"),
        ("google/bert_uncased_L-2_H-128_A-2", "google/bert_uncased_L-2_H-128_A-2"),
        ("roberta-large", "roberta-large"),
    ],
)
def test_paths_become_names(value, name):
    assert origin.hide_folders(value) == name


def facts(settings_of, *words: str, experiment: str = "mlm_pretrain") -> dict[str, str]:
    return origin.list_origins(flatten_settings(settings_of(*words, experiment=experiment)))


def test_a_card_says_what_a_model_was_trained_on_and_by_whom(settings_of, text, tmp_path):
    plain = facts(settings_of)
    assert plain["data"] == text.name and "teacher" not in plain
    assert facts(settings_of, "data=docstrings")["data"] == origin.EMBEDDED
    own = facts(settings_of, experiment="kd_pretrain")
    assert own["teacher"] == "a teacher ⟨1,2,32,64⟩ of its own, trained on the same text"
    named = facts(settings_of, "teacher.name=/home/ada/big", experiment="kd_pretrain")
    assert named["teacher"] == "teacher big"
    csv = ["task=custom", f"data.train={tmp_path}/reviews.csv", f"data.val={tmp_path}/held.csv"]
    tuned = facts(settings_of, "data=docstrings", "model=org/base", *csv, experiment="finetune")
    assert tuned["data"] == "reviews.csv, held.csv" and tuned["base model"] == "org/base"
    free = facts(settings_of, "data=docstrings", "task=docstrings", experiment="finetune")
    assert free["data"] == origin.EMBEDDED
    line = f"an encoder ⟨1,2,16,32⟩ of its own, pre-trained on {origin.EMBEDDED}"
    assert free["base model"] == line
    # of a run that is still there, also what that one learnt from
    kd = flatten_settings(settings_of("teacher.name=roberta-large", experiment="kd_pretrain"))
    (tmp_path / "first").mkdir()
    write_json(tmp_path / "first" / "settings.json", kd)
    for place in ("first", "first/model"):
        words = ["data=docstrings", f"model={tmp_path}/{place}", *csv]
        tuned = facts(settings_of, *words, experiment="finetune")
        line = f"first, pre-trained on {text.name} by teacher roberta-large"
        assert tuned["base model"] == line


def test_damaged_settings_are_one_line(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(BortError, match="settings.json is not valid JSON"):
        origin.read_facts(str(tmp_path))


def test_what_int8_kept_in_words():
    classes = found(agreement=0.975, compared=1000)
    assert classes.describe_agreement() == "97.5% of 1,000 top answers equal"
    numbers = found(error=0.0123, spread=0.8, compared=300)
    assert numbers.describe_agreement() == "1.2% of the answers' spread, 0.8, off"


def test_an_export_tells_no_path_of_this_machine(settings_of, tmp_path, monkeypatch):
    """Of the run, of the user's files, of the code: in no file of the folder, weights included."""
    from bort.export import run as export
    from bort.text.tokenizer import train_tokenizer

    home = tmp_path / "home-of-ada"
    run = home / "runs" / "tuned"
    run.mkdir(parents=True)
    monkeypatch.chdir(home)
    tokenizer = train_tokenizer([f"line {k} of the river" for k in range(50)], 280)
    tokenizer.init_kwargs["name_or_path"] = str(run)
    tokenizer.init_kwargs["tokenizer_file"] = str(run / "tokenizer.json")
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=280, positions=32)
    save_model(build_model(sizes, "paper", 0), tokenizer, run / "model")
    words = [f"data.path={home}/diary.txt", f"teacher.name={home}/big"]
    stated = flatten_settings(settings_of(*words, experiment="kd_pretrain"))
    write_json(run / "settings.json", stated | {"output_dir": str(run)})
    places = [str(tmp_path), str(home), str(Path(export.__file__).parent), os.path.expanduser("~")]
    for form in ("hf", "onnx-int8"):
        out = tmp_path / form
        export.export("runs/tuned", form, out, agreement=0)
        assert "diary.txt" in (out / "README.md").read_text()
        for path in out.iterdir():
            content = path.read_bytes()
            told = [place for place in places if len(place) > 4 and place.encode() in content]
            assert not told, f"{path.name} tells {told}"
            if path.suffix == ".onnx":
                assert not re.search(rb"[\w/.-]+/\w+\.py", content)
