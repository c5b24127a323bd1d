"""Records that were changed, damaged, or belong to another search are refused."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from bort.config.compose import CONF, parse_settings
from bort.config.search import SearchRunConfig, register
from bort.errors import BortError
from bort.files.checked import write_checked
from bort.models.arch import Arch
from bort.search import optimum
from bort.search import sweep as search
from bort.trials.records import Job


@pytest.mark.parametrize("lr", [0.1, 3e-3, 1e-05, 2.0])
def test_hydra_makes_the_folder_of_a_candidate_under_its_name(lr):
    job = Job(Arch(4, 8, 1024, 768), seed=3, lr=lr)
    assert job.folder == f"D4-A8-H1024-I768-s3-lr{lr}"
    register(SearchRunConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # A folder that the user names would be that of every candidate.
        words = ["name=run", "hydra.sweep.subdir=mine", *job.overrides]
        cfg = compose("search", words, return_hydra_config=True)
    with open_dict(cfg):
        assert cfg.pop("hydra").sweep.subdir == job.folder
    run = parse_settings(cfg, SearchRunConfig)
    assert (run.arch, run.seed, run.optim.lr) == (job.xi, 3, lr)


def edited(path: Path, **changes) -> dict:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"error": 1.0}, "was changed, damaged or written by another version; delete its folder"),
        ({"status": "failed", "reason": "x"}, "was changed"),
        ({"check": None}, "was changed"),
    ],
)
def test_an_edited_record_is_refused(copied, done, changes, reason):
    path = sorted(copied.glob("D*/point.json"))[1]
    edited(path, **changes)
    with pytest.raises(BortError, match=f"point.json {reason}"):
        optimum.choose_optimum(copied)
    with pytest.raises(BortError, match=f"point.json {reason}"):
        search.run_in_process(done[0], copied)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher", "0123456789abcdef", "another teacher"),
        ("positions", "0123456789abcdef", "another set of masked positions"),
        ("settings", "0123456789abcdef", "another set of settings"),
        ("corpus", "0123456789abcdef", "another text"),
        ("n", 7, "another number of steps \\(7, here 6\\)"),
        ("version", 0, "another version of bort"),
    ],
)
def test_a_record_of_another_search_is_refused(copied, key, value, words):
    path = sorted(copied.glob("D*/point.json"))[1]
    content = json.loads(path.read_text()) | {key: value}
    content.pop("check")
    write_checked(path, content)
    with pytest.raises(BortError, match=f"point.json was measured with {words}"):
        optimum.choose_optimum(copied)


def test_a_record_in_the_wrong_folder_is_refused(copied):
    first, second = sorted(copied.glob("D*/point.json"))[:2]
    shutil.copy(first, second)
    with pytest.raises(BortError, match=f"is the record of {first.parent.name}"):
        optimum.choose_optimum(copied)
