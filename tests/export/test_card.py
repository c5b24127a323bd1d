"""Model cards: where a model came from, in words that are safe in Markdown and tell no path."""

import dataclasses
import os
import re
import types
from html import unescape
from pathlib import Path

import pytest

from bort.config.fingerprint import flatten_settings
from bort.export import card
from bort.export.result import ExportResult
from bort.files.writing import write_json
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model

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


def test_a_trimmed_vocabulary_is_told(model, tmp_path):
    for size, told in (
        (30_522, "320 of 30,522 tokens, those that the text uses most"),
        (None, "320"),
    ):
        run = {"job": "pretrain", "full_vocab_size": size}
        text = card.format_card(model, "m", run, tmp_path, found())
        assert f"| vocabulary | {told} |" in text


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


def test_a_card_tells_licences_baselines_and_the_trained_length(model, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    run = {"job": "kd_finetune", "task": "custom", "data.length": 48, "val/accuracy": 0.75}
    run |= {"model": "m", "teacher.name": str(tmp_path), "data.train": "gone.csv"}
    run |= {"majority/val/accuracy": 0.5, "majority/note": "'good' for every row"}
    text = unescape(card.format_card(model, "m", run, tmp_path / "out", found()))
    for row in (
        "| trained at | 48 tokens |",
        "| the most frequent label | val/accuracy 0.5000 ('good' for every row) |",
        "| licence of the base model | unknown |",
        "| licence of the teacher | cc-by-4.0 |",
        "| licence of the data | unknown |",
    ):
        assert row in text
    assert "| licence | unknown |" in card.format_card(model, "m", {}, tmp_path / "out", found())


@pytest.mark.parametrize(
    ("example", "row"),
    [
        ("'a text'", "['a text']"),
        ("'a text' 'and another'", "[('a text', 'and another')]"),
        ("'a passage' 'the first' 'it''s'", "[('a passage', 'the first'), ('a passage', 'its')]"),
    ],
)
def test_a_card_shows_lines_of_python_that_run(model, tmp_path, example, row):
    text = card.format_card(model, "m", {}, tmp_path, found(format="onnx"), example)
    assert "pip install -r requirements.txt\n" in text
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert lines.endswith(f"print(model.predict({row}))\n")
    calls = []
    predictor = types.SimpleNamespace(predict=calls.append)
    names = {"Model": lambda: predictor, "print": lambda answers: None}
    exec(lines.replace("from predict import Model", ""), names)
    assert calls == [eval(row)]
