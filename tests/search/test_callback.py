"""What the end of a sweep says, and what becomes of workers that die."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from bort.errors import BortError
from bort.search import callback, sweep_table


def test_a_full_machine_at_the_end_of_a_sweep_is_one_line(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(sweep_table, "write_sweep_table", fail)
    cfg = OmegaConf.create({"job": "pretrain", "hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(SystemExit) as stopped:
        callback.OptimumCallback().on_multirun_end(cfg)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 1 and "out of memory" in line


# ------------------------------------------------------------------------------ dead workers


class Launcher:
    """Runs jobs; those named in `deadly` take their whole batch with them, as loky's workers do."""

    def __init__(self, folder: Path, deadly: set[str]):
        self.folder, self.deadly, self.batches = folder, deadly, []

    def launch(self, overrides, initial_job_idx):
        self.batches.append([job[0] for job in overrides])
        if self.deadly & set(self.batches[-1]):
            raise type("TerminatedWorkerError", (Exception,), {})()
        for name in self.batches[-1]:
            (self.folder / name).mkdir()
            (self.folder / name / "point.json").write_text("{}")
        return []


class Told:
    def __init__(self, folder: Path):
        self.folder, self.calls = folder, []

    def collect(self, batch, died=None):
        self.calls.append(([job.folder for job in batch], died))


def test_a_dead_worker_is_its_candidates_failure(tmp_path):
    jobs = [type("Job", (), {"folder": name})() for name in "abc"]
    launcher, told = Launcher(tmp_path, {"b"}), Told(tmp_path)
    callback.launch(launcher, [["a"], ["b"], ["c"]], 0, told, jobs)
    assert launcher.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    died = "its process died; out of memory?"
    assert told.calls == [(["a"], None), (["b"], died), (["c"], None)]


def test_any_other_error_of_a_launcher_is_raised(tmp_path):
    launcher = type("L", (), {"launch": lambda *_, **__: (_ for _ in ()).throw(KeyError("x"))})()
    with pytest.raises(KeyError):
        callback.launch(launcher, [["a"]], 0, Told(tmp_path), [object()])


def test_a_users_mistake_in_a_job_ends_the_search(tmp_path):
    from hydra.core.utils import JobReturn, JobStatus

    returned = JobReturn(status=JobStatus.FAILED)
    returned.return_value = BortError("text was changed")
    launcher = type("L", (), {"launch": lambda *_, **__: [returned]})()
    with pytest.raises(BortError, match="text was changed"):
        callback.launch(launcher, [["a"]], 0, Told(tmp_path), [object()])


# ------------------------------------------------------------------- searches of older versions


def older_search(folder: Path, **settings: object) -> None:
    """A folder with the settings that an older version of bort recorded."""
    record = {"bort": "0.1", "job": "search", "search.max_params": None, **settings}
    (folder / "settings.json").write_text(json.dumps(record))


def config_in(folder: Path, resume: bool = True) -> DictConfig:
    search = {"objective": "error", "max_latency_share": None}
    return OmegaConf.create({"output_dir": str(folder), "resume": resume, "search": search})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"search.objective": "w"}, ["search.objective=w"]),
        (
            {"search.objective": "error"},
            ["search.objective=error", "search.max_latency_share=1.0"],
        ),
        ({"search.objective": "error", "search.max_params": 9}, ["search.objective=error"]),
        ({"search.objective": "w", "search.max_latency_share": None}, []),  # not an older one
        ({"search.objective": "w", "job": "pretrain"}, []),
    ],
)
def test_an_older_search_is_resumed_by_its_own_aim(tmp_path, record, words):
    older_search(tmp_path, **record)
    cfg = config_in(tmp_path)
    assert callback.take_older_aim(cfg, ["search.n=6"]) == words
    if words:
        assert cfg.search.objective == record["search.objective"]
        assert cfg.search.max_latency_share == (1.0 if len(words) == 2 else None)


def test_what_the_user_names_stays(tmp_path):
    older_search(tmp_path, **{"search.objective": "w"})
    cfg = config_in(tmp_path)
    assert callback.take_older_aim(cfg, ["search.objective=error"]) == []
    assert cfg.search.objective == "error"
    assert callback.take_older_aim(config_in(tmp_path, resume=False), []) == []
    assert callback.take_older_aim(config_in(tmp_path / "elsewhere"), []) == []
