"""What the tests of bort/files share."""

import os
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bort.config.arch import GridConfig
from bort.config.compose import CONF
from bort.files import ownership
from bort.files.writing import replace_folder, write_json


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text, links by where they lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_text("latin-1")
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def write(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def refused(error) -> str:
    line = str(error.value)
    assert "\n" not in line and len(line) <= 200
    return line


def exported(folder: Path, texts: dict[str, str]) -> Path:
    """Write an export of these files as bort.export does."""
    with replace_folder(folder) as fresh:
        write(fresh, texts)
        names = [*texts, "export.json"]
        write_json(fresh / "export.json", ownership.make_export_record(names, {"format": "hf"}))
    return folder


NO_GRID = GridConfig([], [], [], [], [], [])


USERS = {"serve.py": "serve", "notes/plan.md": "plan", ".env": "secret"}


def composed(program: str, *words: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(program, ["seed=0", *words], return_hydra_config=True)
    OmegaConf.register_new_resolver("now", lambda _: "12-00-00", replace=True)
    return cfg
