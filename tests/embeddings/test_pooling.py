"""The layout of sentence-transformers: what its files say, and what cannot be read."""

import json

import numpy as np
import pytest
import torch
from embeddings_layout import write_layout
from torch.nn import functional as F

from bort.embeddings.pooling import (
    Pooling,
    find_pooling,
    is_sentence_folder,
    list_sentence_files,
    read_pooling,
    require_pooling,
)
from bort.errors import BortError

MODES = {"cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
MODES["mean"] = "pooling_mode_mean_tokens"


def pool_by_hand(states, lengths, mode):
    rows = [row[:length] for row, length in zip(states, lengths, strict=True)]
    if mode == "cls":
        return torch.stack([row[0] for row in rows])
    pick = (lambda row: row.max(0).values) if mode == "max" else (lambda row: row.mean(0))
    return torch.stack([pick(row) for row in rows])


@pytest.mark.parametrize("modes", [("cls",), ("max",), ("mean",), ("cls", "max", "mean")])
@pytest.mark.parametrize("is_unit", [False, True])
def test_states_become_an_embedding(tmp_path, modes, is_unit):
    """Joined in the order of the library, and padding counts for nothing."""
    torch.manual_seed(0)
    states, lengths = torch.randn(3, 5, 4, dtype=torch.float64), [5, 2, 1]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    pooling = Pooling(tmp_path, tuple(MODES[mode] for mode in modes), is_unit)
    expected = torch.cat([pool_by_hand(states, lengths, mode) for mode in modes], dim=1)
    if is_unit:
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(pooling.pool(states, mask), expected)
    whole = pooling.pool(states, None)
    torch.testing.assert_close(whole, pooling.pool(states, torch.ones(3, 5)))


def test_what_the_files_say(tmp_path):
    folder = write_layout(tmp_path, "Transformer Pooling", encoder="0_Transformer", cls_token=True)
    (folder / "0_Transformer").mkdir()
    settings = {"max_seq_length": 7, "do_lower_case": True}
    (folder / "0_Transformer" / "sentence_bert_config.json").write_text(json.dumps(settings))
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    pooling = read_pooling(folder)
    assert pooling.folder == folder / "0_Transformer" and pooling.length == 7
    # A file that does not say whether the mean is taken takes it, as the library does.
    assert pooling.modes == (MODES["cls"], MODES["mean"]) and not pooling.is_unit
    assert pooling.prepare("  A Text ") == "query:   a text "
    assert find_pooling(str(folder)) == require_pooling(str(folder), "x") == pooling
    assert is_sentence_folder(folder)
    write_layout(folder, cls_token=True, mean_tokens=False)
    assert read_pooling(folder).modes == (MODES["cls"],) and read_pooling(folder).is_unit


@pytest.mark.parametrize("mode", MODES)
def test_the_short_form_of_a_mode(tmp_path, mode):
    write_layout(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    assert read_pooling(tmp_path).modes == (MODES[mode],)


def test_what_is_written_is_read_again(tmp_path):
    """Also a pooling that bort does not train, with a prompt and lower case."""
    modes = (MODES["cls"], MODES["mean"])
    for is_unit in (True, False):
        pooling = Pooling(tmp_path, modes, is_unit, 9, True, "passage: ")
        for name, content in list_sentence_files(pooling, 16, 9).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps(content))
        assert read_pooling(tmp_path) == pooling
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": "Transformer Pooling Dense"}, "has a module Dense; only Transformer, Pooling"),
        ({"kinds": "Transformer"}, "must list a Transformer, a Pooling"),
        ({"kinds": "Pooling Transformer"}, "must list a Transformer, a Pooling"),
        ({"lasttoken": True}, "asks for pooling_mode_lasttoken; known are cls, max, mean"),
        ({"mean_tokens": False}, "asks for no pooling; known are cls, max, mean"),
        ({"encoder": "../other"}, "lies outside of its folder"),
    ],
)
def test_unknown_layouts_are_one_line(tmp_path, change, message):
    (tmp_path / "s").mkdir()
    write_layout(tmp_path / "s", **change)
    with pytest.raises(BortError, match=message) as caught:
        read_pooling(tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_damaged_layouts_are_one_line(tmp_path, student):
    for content in ("{", "{}", '[{"type": 1}]', "[3]"):
        (tmp_path / "modules.json").write_text(content)
        with pytest.raises(BortError, match="modules.json"):
            read_pooling(tmp_path)
    write_layout(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "weird"}')
    with pytest.raises(BortError, match="asks for weird; known are cls, max, mean"):
        read_pooling(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    assert not is_sentence_folder(tmp_path)
    prompts = {"prompts": {"q": "q: "}, "default_prompt_name": "q"}
    write_layout(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (tmp_path / "1_Pooling" / "config.json").write_text('{"include_prompt": false}')
    with pytest.raises(BortError, match="leaves the prompt out"):
        read_pooling(tmp_path)
    assert find_pooling(str(student)) is None
    with pytest.raises(BortError, match=r"teacher.name=.* has no modules.json"):
        require_pooling(str(student), "teacher.name")


def test_a_pooled_head_says_how_its_states_become_an_embedding(student, tmp_path):
    """A fine-tuned folder with head=mean or towers is a teacher, too."""
    settings = json.loads((student / "config.json").read_text()) | {"bort_head": "towers"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    pooling = find_pooling(str(tmp_path))
    assert pooling.modes == (MODES["mean"],) and pooling.describe() == "mean states"
    states = torch.randn(2, 3, 4)
    torch.testing.assert_close(pooling.pool(states, None), states.mean(1))
    assert np.allclose(F.normalize(states.mean(1)).norm(dim=1), 1)
