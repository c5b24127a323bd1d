"""Names of models: folders, run folders and hub names, with and without the hub."""

import time
from pathlib import Path

import huggingface_hub
import pytest
from models_helpers import OWN, one_line

from bort.errors import BortError
from bort.models import hub, huggingface
from bort.models.initialization import build_model


def test_what_find_takes(tmp_path, tokenizer, monkeypatch, no_hub):
    monkeypatch.chdir(tmp_path)
    huggingface.save_model(build_model(OWN), tokenizer, "runs/kd/a/model")
    assert hub.find_model("runs/kd/a") == Path("runs/kd/a/model")
    assert hub.find_model(Path("runs/kd/a/model")) == Path("runs/kd/a/model")
    assert hub.find_model(tmp_path / "runs/kd/a/") == tmp_path / "runs/kd/a/model"


def test_wrong_folders(tmp_path, monkeypatch, no_hub):  # case C2
    monkeypatch.chdir(tmp_path)
    for folder in (
        "runs/finetune/missing",
        "runs/pre/cut/checkpoints",
        "runs/pre/new/.hydra",
        "void",
    ):
        Path(folder).mkdir(parents=True)
    for arm in ("kd", "mlm"):
        Path(f"runs/both/{arm}/lr_0.004/model").mkdir(parents=True)
        Path(f"runs/both/{arm}/lr_0.004/model/config.json").write_text("{}")
    Path("other").mkdir()
    Path("other/a.txt").write_text("text")
    expected = {
        "runs/finetune/mising": "does not exist; did you mean 'missing'",
        "runs/finetun/missing": "does not exist; did you mean 'finetune'",
        "runs/xyz": "runs/xyz does not exist; give a run folder, a model folder or a hub name",
        "./nothing": "does not exist",
        "/nowhere/at/all": "does not exist",
        "~/nowhere/at/all": "does not exist",
        "one/two/three": "does not exist",
        "other/model": "does not exist",
        "other/a.txt/model": "other/a.txt is a file",
        "other/a.txt": "is a file; give the folder of a model",
        "void": "is an empty folder",
        "other": "holds no config.json",
        "runs/pre/cut": "unfinished run .* train.py .* same name=cut, continues it",
        "runs/pre/new": "unfinished run .* same name=new",
        "runs/both": "holds 2 models; give one of them, as in runs/both/kd/lr_0.004$",
        "bad name!": "neither a folder nor a possible hub name",
    }
    for name, message in expected.items():
        for load in (hub.find_model, huggingface.load_masked_lm, huggingface.load_tokenizer):
            with pytest.raises(BortError, match=message) as error:
                load(name)
            assert name in one_line(error)


def test_hub_names_without_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bert-tiny").mkdir()
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    with pytest.raises(BortError, match="hub does not answer.*did you mean 'bert-tiny'") as error:
        huggingface.load_masked_lm("bert-tny")
    one_line(error)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    with pytest.raises(BortError, match="HF_HUB_OFFLINE is set") as error:
        huggingface.load_tokenizer("someone/some-model")
    one_line(error)


def test_hub_names_from_the_cache(hub_folder, monkeypatch):
    """The cache answers alone; what it lacks is fetched, and an error of the hub is one line."""
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: str(hub_folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kw: str(hub_folder))
    assert hub.find_model("someone/model") == "someone/model"
    assert huggingface.load_masked_lm("someone/model").config.vocab_size == 300
    assert len(huggingface.load_tokenizer("someone/model")) <= 300

    def gated(name, local_files_only=False, **kwargs):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        raise OSError("403 Forbidden\n\nask for access")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    monkeypatch.setattr(hub, "_require_hub", lambda name: None)
    with pytest.raises(BortError, match="cannot fetch 'someone/model' .* 403 Forbidden") as error:
        huggingface.load_masked_lm("someone/model")
    one_line(error)


def test_a_folder_full_of_folders_is_not_walked(tmp_path, monkeypatch):
    """model=/ answers at once: a few levels and a few thousand folders are looked at, no links."""
    (tmp_path / "a" / "b" / "c" / "d" / "model").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "d" / "model" / "config.json").write_text("{}")
    (tmp_path / "again").symlink_to(tmp_path)
    for k in range(40):
        (tmp_path / f"x{k}").mkdir()
    with pytest.raises(BortError, match="is not a model folder"):
        hub.find_model(tmp_path)
    with pytest.raises(BortError, match="a holds 1 model; give its folder, as in .*/a/b/c/d"):
        hub.find_model(tmp_path / "a")
    looked = []
    monkeypatch.setattr(hub, "MOST_FOLDERS", 10)
    monkeypatch.setattr(hub, "_folders", lambda path: looked.append(path) or [path / "x"] * 50)
    with pytest.raises(BortError):
        hub.find_model(tmp_path)
    assert len(looked) <= 10
    start = time.monotonic()
    for name in ("/", "/proc", "~nobody-of-this-name/x", "x" * 300, "x\0y"):
        with pytest.raises(BortError) as error:
            hub.find_model(name)
        assert len(one_line(error)) <= 200
    assert time.monotonic() - start < 4
