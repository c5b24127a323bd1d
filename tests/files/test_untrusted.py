"""Files that anybody may have written are read as plain data, within bounds, or end in one line."""

import json
import time
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.files import untrusted
from bort.runs.folder import RunFolder

SECRET = "hf_secretsecret"
ASKING = "${oc.env:HF_TOKEN}"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(9 * [f'*{old}'])}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)


def line_of(error) -> str:
    text = str(error.value)
    assert "\n" not in text and SECRET not in text
    return text


def test_an_arch_file_asks_nothing_of_the_environment(tmp_path):
    path = tmp_path / "optimum.yaml"
    path.write_text(f"depth: {ASKING}\nheads: 2\nhidden: 8\nintermediate: 8\n")
    with pytest.raises(BortError, match="is not an architecture") as error:
        parse_settings(OmegaConf.create({"arch_file": str(path)}))
    line_of(error)


def test_stored_settings_of_a_search_hold_values_only(tmp_path, search_of):
    path = tmp_path / "config.yaml"
    run = search_of("optim.lr=1e-4")
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(run))))
    assert parse_settings(OmegaConf.create(untrusted.read_settings(path)), SearchRunConfig) == run
    for text in (f"data: {{path: '{ASKING}'}}", f"a: [1, {{'{ASKING}': 2}}]"):
        path.write_text(text)
        with pytest.raises(BortError, match="interpolation") as error:
            untrusted.read_settings(path)
        line_of(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "has the alias"),
        ("&a [*a]", "has the alias"),
        ("[" * 900, "nested|not valid YAML"),
        ("- " * 90_000, "nested|not valid YAML"),
        ("a: " + "x" * 600_000, "no settings file"),
        ("!!python/object/apply:os.system ['touch ran']", "not valid YAML"),
        ("depth: 1\ndepth: 2", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_yaml_that_would_grow_or_run(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(content)
    start = time.monotonic()
    with pytest.raises(BortError, match=message) as error:
        untrusted.read_yaml((tmp_path / "a.yaml").relative_to(tmp_path))
    assert time.monotonic() - start < 1 and len(line_of(error)) <= 200
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "a.yaml").rename(tmp_path / ".hydra" / "overrides.yaml")
    with pytest.raises(BortError):
        RunFolder(tmp_path).read_overrides()


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, "[]", "7", '{"a": ' + "9" * 5000 + "}", "{", "", "\udcff"],
)
def test_json_that_is_no_settings_file(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = (tmp_path / "config.json").relative_to(tmp_path)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BortError, match="is not valid JSON|not hold a JSON object") as error:
        untrusted.read_json(path)
    assert len(line_of(error)) <= 200
    with pytest.raises(ValueError):
        untrusted.parse_json("[" * 100_000)
    assert untrusted.parse_json(json.dumps({"a": [1]})) == {"a": [1]}
