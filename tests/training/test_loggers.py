"""metrics.csv row by row: completed, cut, widened, half-written; and the other loggers' choice."""

import csv
import importlib.util
import math
import os
from types import SimpleNamespace

import pytest

from bort.config.trainer import LoggerConfig
from bort.errors import BortError
from bort.training import loggers
from bort.training.loggers import COLUMNS, MetricsCsv, Table, build_loggers


def lines(path) -> list[str]:
    text = path.read_bytes().decode()
    assert text.endswith("\n") and "\r" not in text
    return text[:-1].split("\n")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.csv"


def table(path, *rows: tuple[int, dict]) -> Table:
    found = Table(path, ["step", "a", "b"])
    for step, row in rows:
        found.write(step, row)
    return found


def test_a_row_is_in_the_file_at_once(path):
    found = Table(path, ["step", "a", "b"])
    assert not path.exists()
    found.write(1, {"a": 0.1})
    assert lines(path) == ["step,a,b", "1,0.1,"]
    found.write(2, {"b": 3})
    assert lines(path) == ["step,a,b", "1,0.1,", "2,,3"]


def test_numbers_come_back_bit_by_bit(path):
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 123456789.123]
    table(path, *((k, {"a": value}) for k, value in enumerate(values)))
    with path.open(newline="") as file:
        assert [float(row["a"]) for row in csv.DictReader(file)] == values


def test_values_of_the_last_step_complete_its_row(path):
    found = table(path, (1, {"a": 1.0}), (2, {"a": 2.0}))
    found.write(2, {"b": 0.5})
    assert lines(path) == ["step,a,b", "1,1.0,", "2,2.0,0.5"]
    found.write(2, {"a": 22.5})
    found.write(3, {"a": 3.0})
    assert lines(path) == ["step,a,b", "1,1.0,", "2,22.5,0.5", "3,3.0,"]
    again = Table(path, ["step", "a", "b"])  # of a run that resumes
    again.write(3, {"b": 9})
    assert lines(path)[-1] == "3,3.0,9"
    again.write(3, {"a": 7})  # shorter than what it replaces
    assert lines(path)[-1] == "3,7,9"


def test_a_new_column_widens_all_rows(path):
    found = table(path, (1, {"a": 1.0}), (2, {"a": 2.0}))
    found.write(2, {"c": 4.0})
    assert lines(path) == ["step,a,b,c", "1,1.0,,", "2,2.0,,4.0"]
    found.write(3, {"d": 5.0, "a": 0.0})
    assert lines(path) == ["step,a,b,c,d", "1,1.0,,,", "2,2.0,,4.0,", "3,0.0,,,5.0"]
    again = Table(path, ["step", "a", "b"])
    again.write(4, {"d": 1.0})
    assert lines(path)[0] == "step,a,b,c,d" and lines(path)[-1] == "4,,,,1.0"


@pytest.mark.parametrize("step", [0, 1, 3, 4, math.inf])
def test_cut(path, step):
    found = table(path, *((k, {"a": float(k)}) for k in range(1, 5)))
    whole = lines(path)
    found.cut(step)
    kept = whole[: 1 + int(min(step, 4))]
    assert lines(path) == kept
    found.write(int(min(step, 4)), {"b": 8})  # completes the last row that is left
    if step:
        assert lines(path) == [*kept[:-1], kept[-1] + "8"]
    found.write(9, {"a": 9.0})
    assert lines(path)[-1] == "9,9.0,"


@pytest.mark.parametrize("rest", ["3,", "3,0.2", "3", "3,0.25,7", "\x00"])
def test_a_half_written_last_line_is_no_row(path, rest):
    table(path, (1, {"a": 1.0}), (2, {"a": 2.0}))
    with path.open("a") as file:
        file.write(rest)  # no line feed: a kill came first
    found = Table(path, ["step", "a", "b"])
    assert lines(path) == ["step,a,b", "1,1.0,", "2,2.0,"]
    found.write(3, {"a": 3.0})
    assert lines(path) == ["step,a,b", "1,1.0,", "2,2.0,", "3,3.0,"]


def test_half_a_header(path):
    path.parent.mkdir()
    path.write_text("step,a")
    Table(path, ["step", "a", "b"]).write(1, {"b": 2.0})
    assert lines(path) == ["step,a,b", "1,,2.0"]


def test_metrics_and_wall_clock_are_apart(tmp_path):
    """So that two runs of the same settings have equal metrics.csv byte for byte."""
    found = MetricsCsv(tmp_path)
    found.log_metrics({"train/loss": 2.0, "perf/tokens_per_s": 100.0}, 1)
    found.log_metrics({"perf/tokens_per_s": 90.0}, 2)
    found.log_metrics({"val/loss": 3.0}, 1)
    assert lines(tmp_path / "perf.csv") == ["step,perf/tokens_per_s", "1,100.0", "2,90.0"]
    header, row = lines(tmp_path / "metrics.csv")
    assert header.split(",") == COLUMNS
    named = dict(zip(COLUMNS, row.split(","), strict=True))
    assert {k: v for k, v in named.items() if v} == {
        "step": "1",
        "train/loss": "2.0",
        "val/loss": "3.0",
    }
    found.log_metrics({"train/loss": 1.0}, 2)
    found.resume(1)
    assert len(lines(tmp_path / "metrics.csv")) == len(lines(tmp_path / "perf.csv")) == 2


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_logger_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("bort.config.trainer.find_spec", lambda name: None)
    with pytest.raises(BortError, match=f"needs the package {name}; pip install it"):
        build_loggers(LoggerConfig(name=name), tmp_path, {})


@pytest.mark.parametrize("name", ["csv", "none"])
def test_nothing_else(tmp_path, name):
    assert build_loggers(LoggerConfig(name=name), tmp_path, {}) == []


class WandbStub(SimpleNamespace):
    """In place of Lightning's logger for wandb; it refuses what it is to log."""

    calls = 0

    def __init__(self, options: dict):
        super().__init__(_wandb_init=options)

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        raise OSError("no space left on device")

    log_table = log_metrics


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    loggers.choose_wandb_mode.cache_clear()
    yield
    loggers.choose_wandb_mode.cache_clear()


@pytest.fixture
def network(monkeypatch):
    """wandb's server answers."""
    monkeypatch.setattr(loggers, "check_reachable", lambda server: "reachable")


@pytest.mark.parametrize(
    ("key", "mode", "expected"),
    [
        (None, "auto", "offline"),
        (None, "offline", "offline"),
        ("environment", "auto", "online"),
        ("environment", "offline", "offline"),
        ("environment", "online", "online"),
        (".netrc", "auto", "online"),
    ],
)
def test_wandb_is_online_only_with_a_key(
    tmp_path, monkeypatch, no_key, network, key, mode, expected
):
    if key == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    elif key:
        (tmp_path / key).write_text(f"machine api.wandb.ai login user password {'0' * 40}\n")
        (tmp_path / key).chmod(0o600)
    made = []
    monkeypatch.setattr(
        "lightning.pytorch.loggers.WandbLogger",
        lambda **options: made.append(options) or WandbStub(options),
    )
    folder = tmp_path / "runs" / "kd_pretrain" / "first"
    config = LoggerConfig(name="wandb", mode=mode, tags=["a"])
    build_loggers(config, folder, {"seed": 1})
    (options,) = made
    assert (options["mode"], options["config"], options["tags"]) == (expected, {"seed": 1}, ["a"])
    assert (options["name"], options["group"]) == ("kd_pretrain-first", "kd_pretrain")


def test_wandb_online_without_a_key_is_one_line(tmp_path, no_key):
    with pytest.raises(BortError, match="needs a wandb key; run `wandb login`") as error:
        build_loggers(LoggerConfig(name="wandb", mode="online"), tmp_path, {})
    assert "\n" not in str(error.value)


def test_an_unreadable_netrc_is_no_key(tmp_path, no_key):
    (tmp_path / ".netrc").write_text("this is no netrc")
    assert not loggers.has_wandb_key()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("disabled", "disabled"), ("offline", "offline"), ("dryrun", "offline")],
)
def test_wandb_mode_of_the_environment_is_obeyed(monkeypatch, no_key, network, variable, expected):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", variable)
    assert loggers.choose_wandb_mode("auto") == expected


def test_disabled_wandb_starts_no_run(tmp_path, monkeypatch, no_key):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert build_loggers(LoggerConfig(name="wandb"), tmp_path, {}) == []


def test_a_key_without_a_network_is_offline_and_said_once(monkeypatch, no_key, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    assert [loggers.choose_wandb_mode("auto") for _ in range(2)] == ["offline", "offline"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("wandb: offline, since http://127.0.0.1:9 is not reachable")


def test_a_training_outlives_its_wandb_log(tmp_path, monkeypatch, no_key, capsys):
    monkeypatch.setattr(
        "lightning.pytorch.loggers.WandbLogger", lambda **options: WandbStub(options)
    )
    (logger,) = build_loggers(LoggerConfig(name="wandb"), tmp_path, {})
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
    assert logger.calls == 1
    assert capsys.readouterr().out.count("wandb: logs no more (no space left on device)") == 1


@pytest.mark.parametrize("home", ["a file", "none"])
def test_wandb_keeps_its_files_in_the_run_where_there_is_no_home(tmp_path, monkeypatch, home):
    for name in loggers.WANDB_FOLDERS:
        monkeypatch.setenv(name, "unset by this test")
        monkeypatch.delenv(name)
    monkeypatch.setattr(loggers, "CHOSEN_FOLDERS", {"WANDB_CACHE_DIR"})
    (tmp_path / "file").touch()
    homes = {"a file": str(tmp_path / "file"), "none": "~"}
    monkeypatch.setattr(os.path, "expanduser", lambda path: homes[home])
    loggers.move_wandb_folders(tmp_path / "run")
    values = {name: os.environ.get(name) for name in loggers.WANDB_FOLDERS}
    inside = str(tmp_path / "run" / "wandb")
    assert values == {
        "WANDB_DATA_DIR": inside,
        "WANDB_CONFIG_DIR": inside,
        "WANDB_CACHE_DIR": None,
    }
