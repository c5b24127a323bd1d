"""What --help says: every setting with its value and its meaning, within the screen's width."""

import re
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bort.cli.help import show_help
from bort.config.compose import CONF
from bort.config.search import SearchRunConfig
from bort.config.train import TrainConfig
from bort.errors import BortError

SCHEMAS = {"train": TrainConfig, "search": SearchRunConfig}


@pytest.fixture
def help_of(monkeypatch, capsys):
    """The help of a command with these words beside --help."""

    def show(command: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{command}.py", *words, "--help"])
        show_help(command, SCHEMAS[command])
        return capsys.readouterr().out

    return show


def settings_in(text: str) -> dict[str, tuple[str, str]]:
    """Setting → its value and its explanation, as they stand in a help text."""
    found = {}
    for key, value, behind, below in re.findall(
        r"^  ([\w.]+)=(.*?)(?:  +(\S.*)|\n {10,}(\S.*))?$", text, re.MULTILINE
    ):
        found.setdefault(key, (value.strip(), behind or below))
    return found


def keys_of(command: str) -> set[str]:
    """Every key that a command composes, but for those in lists and of Lightning's objects."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, ["name=x", "output_dir=x"])
    keys = set()

    def walk(prefix: str, table: dict) -> None:
        for key, value in table.items():
            if isinstance(value, dict) and value:
                walk(f"{prefix}{key}.", value)
            elif key != "_target_":
                keys.add(f"{prefix}{key}")

    walk("", OmegaConf.to_container(cfg))
    return keys


@pytest.mark.parametrize("command", ["train", "search"])
def test_every_setting_is_there_and_says_what_it_is(help_of, command):
    text = help_of(command)
    shown = settings_in(text.split("Settings, each with its value here:")[1])
    assert set(shown) == keys_of(command) and len(shown) > 80
    assert not [key for key, (_, meaning) in shown.items() if len(meaning) < 5]
    assert max(map(len, text.splitlines())) <= 100
    assert text.count(f"\n  {text.split(':')[0]} ") == 3  # examples


def test_the_values_are_those_of_the_other_words(help_of):
    shown = settings_in(help_of("train", "experiment=finetune", "optim.lr=2e-5", "arch=bort"))
    assert shown["optim.lr"][0] == "2e-05" and shown["arch.hidden"][0] == "1024"
    assert (shown["job"][0], shown["trainer.max_epochs"][0]) == ("finetune", "3")
    assert shown["name"][0].startswith("${now:") and shown["arch"][0] == "bort"


def test_groups_list_their_choices_and_experiments_their_purpose(help_of, tmp_path):
    text = help_of("train")
    for group in ("arch", "data", "optim", "trainer", "logger", "callbacks", "debug"):
        listed = set(re.findall(r"\w+", text.split(f"\n  {group}=")[1].split("=")[0]))
        assert {path.stem for path in (CONF / group).glob("*.yaml")} <= listed
    for path in (CONF / "experiment").glob("*.yaml"):
        assert re.search(rf"^  experiment={path.stem} +[A-Z].{{20}}", text, re.MULTILINE)
    assert "\n  grid=small " in help_of("search") and "\n  grid=" not in text


def test_a_folder_of_ones_own_is_listed(help_of, tmp_path):
    (tmp_path / "arch").mkdir()
    (tmp_path / "arch" / "mine.yaml").write_text("depth: 3\n", "utf-8")
    text = help_of("train", "--config-dir", str(tmp_path), "arch=mine")
    assert "arch=mine " in text and settings_in(text)["arch.depth"][0] == "3"


def test_a_mistake_is_told_as_without_help(help_of):
    with pytest.raises(BortError, match="config_dir=nowhere is not a folder"):
        help_of("train", "--config-dir", "nowhere")
