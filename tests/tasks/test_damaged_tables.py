"""Files of a user's table that are damaged, mutated, or written by other programs."""

import csv
import io
import json
import random
import re

import pandas
import pytest
from custom_tables import data, records, write

from bort.errors import BortError
from bort.files.text_files import read_lines
from bort.tasks import custom


def counted(content: bytes, suffix: str) -> int:
    """Rows of a whole file, by another way than the reader's."""
    text = content.decode("utf-8-sig")
    if suffix == ".csv":
        table = pandas.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, engine="c")
        return len(table)
    lines = [line for line in re.split(r"\r?\n", text) if line.strip()]
    return len(lines) - (suffix == ".tsv")


def mutate(content: bytes, kind: str, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at, place = rng.randrange(1, len(lines) - 1), rng.randrange(1, len(content))
    if kind == "cut":
        return content[:place]
    if kind == "byte":
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    if kind == "quote":
        return content[:place] + b'"' + content[place:]
    if kind == "latin":
        return content[:place] + "é".encode("latin-1") + content[place:]
    if kind == "utf-16":
        return content.decode().encode("utf-16")
    if kind == "nul":
        return content[:place] + b"\0" + content[place:]
    if kind == "crlf":
        return content.replace(b"\n", b"\r\n")
    if kind == "empty":
        return b""
    if kind == "column":
        lines[at] = lines[at][: len(lines[at]) // 2]
    if kind == "label":
        lines[at] = re.sub(rb"(pos|neg)\b(?!.*(pos|neg))", b"odd", lines[at])
    return b"\n".join(lines)


KINDS = ("cut", "byte", "quote", "latin", "utf-16", "nul", "crlf", "empty", "column", "label")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_mutated_file_is_refused_in_one_line_or_read_whole(tmp_path, suffix):
    rng = random.Random(suffix)
    given = [(f'Text, number {k} is "{k}"; ok', ("pos", "neg")[k % 2]) for k in range(30)]
    train = write(tmp_path / f"train{suffix}", records(given))
    whole = train.read_bytes()
    val = tmp_path / f"val{suffix}"
    refused = 0
    for kind in 25 * KINDS:
        content = mutate(whole, kind, rng)
        val.write_bytes(content)
        try:
            _, rows = custom.read_custom_task(data(train, val=str(val)))
        except BortError as error:
            refused += 1
            message = str(error)
            assert str(val) in message and "\n" not in message, message
            found = re.search(r", line (\d+)", message)
            assert not found or int(found[1]) <= content.count(b"\n") + 1
            assert kind != "crlf"
        else:
            assert kind in ("cut", "byte", "quote", "crlf", "column"), kind
            assert len(rows["val"]) == counted(content, suffix), (kind, content)
    assert refused > 130


def test_torn_parquet(tmp_path):
    rng = random.Random(0)
    path = write(tmp_path / "a.parquet", records())
    whole, refused = path.read_bytes(), 0
    for _ in range(50):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(BortError, match=r"a\.parquet: not a whole parquet file"):
            custom.read_custom_task(data(path))
        refused += 1
    assert refused == 50


def test_the_reader_of_csv_agrees_with_the_standard_ones(tmp_path):
    """Long cells, quotes, blank lines, a byte-order mark."""
    path = tmp_path / "a.csv"
    texts = ["x" * 200_000, 'say "hi"', "a,b", "line\nbreak", "ö"]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["review", "label"])
    for number, text in enumerate(texts):
        writer.writerow([text, "ab"[number % 2]])
    path.write_bytes(b"\xef\xbb\xbf" + buffer.getvalue().encode() + b"\r\n\r\n")
    _, rows = custom.read_custom_task(data(path, val=str(path)))
    assert [row.texts[0] for row in rows["train"]] == texts


def test_json_lines_with_numbers_for_labels(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"review": "a", "label": 1}, {"review": "b", "label": 0}, {"review": "c", "label": 1}]
    path.write_text("\n".join(map(json.dumps, lines)))
    task, rows = custom.read_custom_task(data(path, val=str(path)))
    assert task.labels == ("0", "1") and [row.label for row in rows["train"]] == [1, 0, 1]


@pytest.mark.parametrize("sign", [";", "\t"])
def test_cells_between_semicolons_or_tabs(tmp_path, sign):
    path = tmp_path / "a.csv"
    lines = [("review", "label"), ('"a, b"', "x"), ("c", "y"), ("d", "x")]
    path.write_text("\n".join(sign.join(cells) for cells in lines))
    _, rows = custom.read_custom_task(data(path, val=str(path)))
    assert [row.texts for row in rows["train"]] == [("a, b",), ("c",), ("d",)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("badutf", r"badutf\.parquet, row 8: b'caf\\xe9 au lait' is not UTF-8"),
        ("page", r"page\.parquet: damaged after row 0"),
        ("struct", r"struct\.parquet, row 1: 'text' is an object, not text"),
    ],
)
def test_damaged_parquet_is_one_line(shared, name, message):
    path = shared / "cases" / "N" / "N09-parquet-utf8" / f"{name}.parquet"
    with pytest.raises(BortError, match=message):
        custom.read_custom_task(data(path, text="text"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_encodings_are_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes("review,label\na,x\n".encode("utf-16"))
    with pytest.raises(BortError, match=rf"a{suffix}: UTF-16, not UTF-8; convert the file"):
        custom.read_custom_task(data(path))
    path.write_bytes(b"review\tlabel\ncaf\xe9\tx\n")
    with pytest.raises(BortError, match=r"not UTF-8 at byte \d+; convert the file \(line 2\)"):
        custom.read_custom_task(data(path)) if suffix == ".tsv" else list(read_lines(path))


@pytest.mark.parametrize(("suffix", "sign"), [(".csv", ";"), (".csv", "\t"), (".tsv", "\t")])
def test_decimal_commas_of_a_spreadsheet(tmp_path, suffix, sign):
    """As pandas writes them; a note says so, and data.kind=classes leaves labels as they are."""
    path = tmp_path / f"a{suffix}"
    frame = pandas.DataFrame({"review": [f"text {k}" for k in range(40)]})
    frame["label"] = [1.5 + k for k in range(40)]
    frame.to_csv(path, index=False, sep=sign, decimal=",")
    assert f"text 0{sign}1,5\n" in path.read_text()
    task, rows = custom.read_custom_task(data(path, val=str(path)))
    assert task.kind == "regression" and task.labels == ("1.5", "40.5")
    assert [row.label for row in rows["val"]] == frame["label"].to_list()
    assert task.notes == ("'label' has decimal commas: '1,5' is 1.5",)
    frame["label"] = ["1,5", "2,5"] * 20
    frame.to_csv(path, index=False, sep=sign)
    task, _ = custom.read_custom_task(data(path, val=str(path), kind="classes"))
    assert task.labels == ("1,5", "2,5")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_comma_that_may_be_decimal_or_not_is_refused(tmp_path, suffix):
    rows = [{"review": f"text {k}", "label": f"{k},500"} for k in range(9)]
    path = write(tmp_path / f"a{suffix}", rows)
    line = r"'label' is '0,500'; write numbers with a point, put semicolons between"
    with pytest.raises(BortError, match=line):
        custom.read_custom_task(data(path, val=str(path)))
