"""What the command line of bort.predict may say, and which file is of which kind."""

from pathlib import Path

import pytest

from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.predict.settings import PredictConfig


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give model=FOLDER and either text='…' or input=FILE"),
        (["model=m"], "give model=FOLDER and either text='…' or input=FILE"),
        (["model=m", "text=a", "top=0"], "top=0 is no number of words; write top=5"),
        (["model=m", "text=a", "top=x"], "top=x is no number of words; write top=5"),
        (["model=m", "input=a.csv", "pair=b"], "pair= is for a text; two columns .* text=.a,b."),
        (["model=m", "input=-", "format=xls"], "format=xls .*csv, tsv"),
        (
            ["model=m", "input=a.csv", "out=b.xls"],
            "out=b.xls: answers are written as csv, tsv, par",
        ),
        (["model=m", "input=a.csv", "out=b.csv.gz"], "out=b.csv.gz: answers are written as csv"),
        (["model=m", "input=a.csv", "format=csv", "out=b.csv"], "format=csv is of - and of the s"),
        (["model=m", "input=a.csv", "label=x"], "label=x is read with score=true; add it"),
        (["model=m", "input=a.csv", "score=1"], "score=1 must be true or false"),
        (["model=m", "input=a.txt", "score=true"], "score=true needs input= of a table"),
        (["model=m", "text=a", "score=true"], "score=true needs input= of a table"),
        (["model=m", "input=a.txt", "text=b"], "text=b names a column, and input=a.txt has lines"),
        (["model=m", "input=-", "text=b"], "text=b names a column, and input=- has lines only"),
        (["model=m", "input=a.xlsx"], "input=a.xlsx: save it as csv, tsv, jsonl, or a .txt"),
        (["model=m", "input=a.parquet.gz"], "input=a.parquet.gz: save it as csv"),
    ],
)
def test_a_mistake_is_one_line(words, message):
    with pytest.raises(BortError, match=message) as error:
        parse_command(PredictConfig, words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("a.CSV", ".csv"), ("a.tsv.gz", ".tsv"), ("a.jsonl.zst", ".jsonl"), ("a.parquet", ".parquet")]
    + [("a.txt", ".txt"), ("a.md.xz", ".txt"), ("a", ".txt"), ("-", ".txt")],
)
def test_the_kind_of_a_file(word, kind):
    settings = parse_command(PredictConfig, ["model=m", f"input={word}"])
    assert settings.kind == kind
    assert settings.input_path == Path("/dev/stdin" if word == "-" else word)
    assert settings.out_path is None and settings.columns is None


def test_what_a_stream_carries():
    words = ["model=m", "input=-", "format=tsv", "out=b.csv", "text=[a, b]"]
    settings = parse_command(PredictConfig, words)
    assert settings.kind == ".tsv" and settings.out_path == Path("b.csv")
    assert settings.columns == ("a", "b")
    assert parse_command(PredictConfig, ["model=m", "text=[a]", "out=-"]).kind is None
