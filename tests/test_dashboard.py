"""Every key of the dashboard's panels is in the offline logs of tiny runs; one group per search."""

import csv
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import wandb
from tiny_runs import offline_log, records, sweep

from bort import dashboard
from bort.agora.recipe import agora
from bort.config.command_line import parse_command
from bort.dashboard import PANELS, TABLES
from bort.errors import BortError
from bort.finetuning.recipe import finetune
from bort.pretraining.recipe import pretrain
from bort.search.report import COLUMNS, FIGURES

pytestmark = pytest.mark.filterwarnings("default")  # wandb warns about its own use of pydantic


def started(folder) -> list[SimpleNamespace]:
    """Group, job type, name and summary of each wandb run below a folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(folder.rglob("*.wandb")):
        run, summary = None, {}
        for content in records(path.read_bytes()):
            record = Record.FromString(content)
            run = record.run if record.HasField("run") and run is None else run
            for item in record.summary.update:
                summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
        one = {"group": run.run_group, "job": run.job_type, "name": run.display_name}
        found.append(SimpleNamespace(**one, summary=summary))
    return found


def keys_of(folder) -> set[str]:
    return {key for row in offline_log(folder)[0] for key in row}


@pytest.fixture(scope="module")
def logs(settings_of, search_of, tmp_path_factory):
    """The offline logs of a pre-training, of both kinds of fine-tuning, Agora and a search."""
    root = tmp_path_factory.mktemp("wandb") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "NETRC"):
            patch.setenv(name, str(root / "home"))
        patch.setattr("sys.stdin", None)
        own = ["logger=wandb", "trainer.max_steps=2"]
        losses = "distill={w_kd: 1, w_hidden: 1, w_relation: 1}"
        run = settings_of(*own, losses, "trainer.val_check_interval=1", experiment="kd_pretrain")
        pretrain(run, root / "kd")
        for name, label in (("classes", lambda k: "ab"[k % 2]), ("numbers", lambda k: k + 0.5)):
            path = root / f"{name}.csv"
            rows = [("text", "label"), *((f"Row {k}", label(k)) for k in range(30))]
            path.write_text("".join(f"{text},{value}\n" for text, value in rows))
            given = [*own, "task=custom", f"model={root / 'kd'}", f"data.train={path}"]
            run = settings_of(*given, f"data.val={path}", "data=docstrings", experiment="finetune")
            finetune(run, root / name)
        given = [*given, "agora.guard=0", "agora.grid={seed: [0], lr_factor: [1]}"]
        given += [f"data.train={root / 'classes.csv'}", f"teacher.name={root / 'kd'}"]
        run = settings_of(*given, "data=docstrings", experiment="agora")
        agora(run, root / "agora")
        run = search_of("logger=wandb", "search.seeds=1", "search.finalists=1")
        found = root, sweep(run, root / "search" / "mine")
        wandb.teardown()  # or commands that later tests start would write through our process
        return found


def test_every_key_of_a_panel_is_logged(logs):
    root, _ = logs
    folders = [root / name for name in ("kd", "classes", "numbers", "agora/wandb")]
    folders.append(root / "search" / "mine" / "wandb")
    known = set.union(*map(keys_of, folders))
    wanted = {key for panels in PANELS.values() for keys in panels.values() for key in keys}
    assert wanted <= known, wanted - known
    assert set(TABLES) | set(FIGURES) <= wanted
    assert "samples/predictions" in keys_of(root / "classes")


def test_a_search_is_one_group(logs):
    folder, summary = logs[0] / "search" / "mine", logs[1]
    of_all, (own,) = started(folder), started(folder / "wandb")
    assert {one.group for one in of_all} == {"mine"}
    assert sorted(one.job for one in of_all) == ["candidate"] * summary["trainings"] + ["search"]
    assert len({one.name for one in of_all}) == len(of_all)
    assert own.summary["w"] == summary["w"]
    assert own.summary["optimum_name"] == summary["optimum_name"]


def test_what_a_search_shows(logs):
    folder, summary = logs[0] / "search" / "mine", logs[1]
    (files,) = folder.glob("wandb/offline-run-*/files")
    (page,) = files.glob("media/html/search/*.html")
    assert "proven: no candidate left out has a larger W" in page.read_text()
    (file,) = files.glob("media/table/search/*.json")
    shown = json.loads(file.read_text())
    rows = [dict(zip(shown["columns"], row, strict=True)) for row in shown["data"]]
    with (folder / "candidates.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    for row, own in zip(rows, expected, strict=True):
        assert {key: "" if value is None else str(value) for key, value in row.items()} == {
            key: own[key] for key in COLUMNS
        }
    (file,) = files.glob("media/plotly/search/pareto_front*.json")
    points = [x for line in json.loads(file.read_text())["data"][:2] for x in line["text"]]
    assert len(points) == summary["trained"]


def test_workspace(monkeypatch):
    """The calls that make it, of a stand-in for the package, which needs an account."""

    def made(kind: str):
        return lambda **given: SimpleNamespace(kind=kind, **given)

    reports, spaces = ModuleType("reports"), ModuleType("workspaces")
    for name in ("LinePlot", "MediaBrowser", "WeavePanelSummaryTable"):
        setattr(reports, name, made(name))
    spaces.Section, spaces.Workspace = made("Section"), made("Workspace")
    package, kinds = ModuleType("wandb_workspaces"), ModuleType("wandb_workspaces.reports")
    package.workspaces, package.reports, kinds.v2 = spaces, kinds, reports
    modules = {"": package, ".workspaces": spaces, ".reports": kinds, ".reports.v2": reports}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"wandb_workspaces{name}", module)
    space = dashboard.workspace("me", "bort")
    assert [section.name for section in space.sections] == list(PANELS)
    for section in space.sections:
        for panel, (title, keys) in zip(section.panels, PANELS[section.name].items(), strict=True):
            if panel.kind == "WeavePanelSummaryTable":
                assert [panel.table_name] == keys and keys[0] in TABLES
            else:
                shown = panel.y if panel.kind == "LinePlot" else panel.media_keys
                assert (panel.title, shown) == (title, keys)


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    settings = parse_command(dashboard.DashboardConfig, ["entity=me"])
    assert settings.project == "bort"
    with pytest.raises(BortError, match="needs the package wandb-workspaces; pip install it"):
        dashboard.main(settings)
    with pytest.raises(BortError, match="give entity=NAME"):
        parse_command(dashboard.DashboardConfig, [])
