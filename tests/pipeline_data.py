"""The text and the task of a user for the tests of the pipeline."""

from pathlib import Path


def write_data(folder: Path) -> None:
    (folder / "texts.txt").write_text("\n".join(f"The cube of {k} is {k**3}" for k in range(60)))
    rows = [f"{['no', 'a very'][k % 2]} good number {k},{k % 2}" for k in range(60)]
    (folder / "stars.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "my stars, new.csv").write_text("\n".join(["film review,label", *rows]) + "\n")
