"""A user's table in every format, and the settings that read it."""

from pathlib import Path

import pandas

from bort.config.data import DataConfig

ROWS = [
    ('Good, really "good".', "pos"),
    ("Bad", "neg"),
    ("Two\nlines", "neg"),
    ("Tränen und 日本", "pos"),
    ("  spaces  ", "neutral"),
    ("NA", "neg"),
]


def write(path: Path, rows: list[dict]) -> Path:
    """A file as pandas, which has its own writers, writes it."""
    frame = pandas.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        lines = ["\t".join(frame.columns)]
        lines += ["\t".join(map(str, row)) for row in frame.itertuples(index=False)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def records(rows=ROWS) -> list[dict]:
    return [{"id": k, "review": text, "label": label} for k, (text, label) in enumerate(rows)]


def data(train: Path, **given) -> DataConfig:
    return DataConfig(train=str(train), text=given.pop("text", "review"), **given)
