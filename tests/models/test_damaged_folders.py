"""Model folders that somebody has damaged, mistyped or made up: each is one line, at once."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from bort.errors import BortError
from bort.models import hub
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import (
    load_classifier,
    load_masked_lm,
    load_model,
    load_tokenizer,
    save_model,
)
from bort.models.initialization import build_classifier, build_model
from bort.text.tokenizer import train_tokenizer

DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]
STRANGE = [None, [], ["x"], {}, {"a": 1}, "x" * 300, -1, 0.5, 10**40, 1e308, True, DEEP]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A classifier of ours with all keys of its task."""
    tokenizer = train_tokenizer([f"line {k} of some text" for k in range(50)], 280)
    body = build_model(ModelConfig(**vars(Arch(1, 2, 8, 12)), vocab_size=280, positions=20))
    names = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "bort_texts": 1}
    folder = tmp_path_factory.mktemp("whole") / "model"
    kind = {"problem_type": "single_label_classification", "bort_task": "custom"}
    save_model(build_classifier(body, 2), tokenizer, folder, names | kind)
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch) -> Path:
    """A copy, by a short name."""
    shutil.copytree(whole, tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    return Path("m")


def outcome(call, folder: Path) -> str:
    """`opened`, or the line; anything else than a line fails."""
    start = time.monotonic()
    try:
        call(folder)
        return "opened"
    except BortError as error:
        text = str(error)
        assert "\n" not in text and len(text) <= 190, text
        return text
    finally:
        assert time.monotonic() - start < 2


def paths_of(value, prefix: tuple = ()) -> list[tuple]:
    """The way to every value in nested tables and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in pairs:
        found.append((*prefix, key))
        if isinstance(inner, dict | list) and len(inner) < 30:
            found += paths_of(inner, (*prefix, key))
    return found


def changed(content: dict, way: tuple, value) -> str:
    content = json.loads(json.dumps(content))
    table = content
    for key in way[:-1]:
        table = table[key]
    table[way[-1]] = value
    return json.dumps(content)


def test_every_key_of_config_json_with_another_value(folder):
    path = folder / "config.json"
    content, opened = json.loads(path.read_text()), []
    for way in paths_of(content):
        for value in STRANGE:
            path.write_text(changed(content, way, value))
            opened += [(way, value)] * (outcome(load_model, folder) == "opened")
    strict = ("vocab_size", "hidden_size", "model_type", "max_position_embeddings", "hidden_act")
    assert not [o for o in opened if o[0][0] in strict and o[1] is not None]


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_every_key_of_the_tokenizers_files_with_another_value(folder, file):
    path = folder / file
    content = json.loads(path.read_text())
    for number, way in enumerate(paths_of(content)):
        for value in STRANGE[number % 3 :: 3]:
            path.write_text(changed(content, way, value))
            outcome(load_tokenizer, folder)


def test_an_unknown_word_that_no_vocabulary_has(shared):
    with pytest.raises(BortError, match=r"names \[UNK\] for unknown words, but has no such word"):
        load_tokenizer(shared / "cases/N/N12-unk-missing/tokenizer")


def test_special_tokens_with_ids_beyond_the_vocabulary(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] |= {"cls": ["<s>", 70_000]}
    path.write_text(json.dumps(content))
    assert "adds the id 70000, but its vocabulary ends at 279" in outcome(load_tokenizer, folder)


@pytest.mark.parametrize(
    "content",
    [{}, {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": {"a": DEEP}}, []]
    + [{"weight_map": {"a": name}} for name in ("no.safetensors", "..", "/dev/zero", "m.bin", "")],
)
def test_indexes_of_parts(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert "opened" != outcome(load_model, folder)


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "change",
    [
        lambda h: {},
        lambda h: [],
        lambda h: DEEP,
        *(
            lambda h, key=key, value=value: {n: t | {key: value} for n, t in h.items()}
            for key in ("dtype", "shape", "data_offsets")
            for value in STRANGE[:11]
        ),
    ],
)
def test_headers_of_weights(folder, change):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + size])
    table.pop("__metadata__")
    path.write_bytes(header(json.dumps(change(table)).encode()) + content[8 + size :])
    assert "opened" != outcome(load_model, folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_hidden_layers": 10**6}, "depth=1,000,000 must be at most 1,000"),
        ({"num_hidden_layers": 900}, "m has 1 layer, but config.json asks for 900"),
        ({"vocab_size": 3 * 10**8}, r"asks for \[300000000, 8\]"),
        ({"hidden_size": 80_000}, "asks for"),
        ({"max_position_embeddings": 2 * 10**9}, "asks for"),
        ({"num_attention_heads": 3}, "does not divide"),
    ],
)
def test_sizes_are_compared_before_anything_is_built(folder, change, line, monkeypatch):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(torch.nn.Module, "to_empty", None)  # nothing may be allocated
    with pytest.raises(BortError, match=line):
        load_model(folder)
    with pytest.raises(BortError, match=line):
        load_masked_lm(folder, head_required=False)


def test_a_large_prime_width_is_one_line_at_once():
    start = time.monotonic()
    with pytest.raises(BortError, match="arch.hidden=1,000,000,000,039 must be at most 100,000"):
        Arch(2, 2, 1_000_000_000_039, 8).check()
    assert time.monotonic() - start < 0.5


def edited(folder: Path, name: str, change) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


NAME = "bert.encoder.layer.0.attention.self.key.weight"


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda w: w.to(torch.int8), "int8"),
        (lambda w: w.to(torch.complex64), "complex64"),
        (lambda w: w.to(torch.bool), "bool"),
        (lambda w: w.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda w: w.masked_fill(w == w.max(), torch.nan), "infinite or not numbers"),
        (lambda w: w.masked_fill(w == w.max(), -torch.inf), "infinite or not numbers"),
        (lambda w: w.double() * 1e200, "infinite or not numbers"),
    ],
)
def test_weights_that_are_no_numbers(folder, change, kind, form):
    edited(folder, NAME, change)
    if form == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    for call in (load_model, lambda f: load_masked_lm(f, head_required=False)):
        line = outcome(call, folder)
        assert NAME in line and kind in line


@pytest.mark.parametrize("dtype", hub.FLOATS)
def test_weights_of_every_floating_kind_open(folder, dtype):
    expected = load_model(folder)[0].state_dict()
    for name in load_file(folder / "model.safetensors"):
        edited(folder, name, lambda w: w.to(dtype))
    for name, weight in load_model(folder)[0].state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[name].to(dtype).float())


def test_a_compressed_file_of_tensors_is_not_unpacked(folder):
    import zipfile

    torch.save(load_file(folder / "model.safetensors"), folder / "plain.bin")
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "plain.bin") as plain:
        packed = zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED)
        with packed:
            for part in plain.namelist():
                packed.writestr(part, plain.read(part))
    assert "is compressed" in outcome(load_model, folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"id2label": {"0": "a", "1": "a"}}, "names two outputs 'a' in id2label"),
        ({"id2label": {"0": "a"}}, "the model has 2 outputs"),
        ({"id2label": {"0": "a", "7": "b"}}, "the model has 2 outputs"),
        ({"problem_type": "regression"}, "regression with 2 numbers"),
        ({"problem_type": "x"}, "problem_type='x'; known are regression"),
    ],
)
def test_names_of_outputs_that_mean_nothing(folder, change, line):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert line in outcome(load_model, folder)
    assert line in outcome(load_classifier, folder)


def test_equal_names_of_labels_are_refused(shared):
    with pytest.raises(BortError, match="names two outputs .* in id2label; give each its own"):
        load_model(shared / "cases/N/N24-dup-labels/model")


def test_a_folder_of_another_program_with_default_labels_opens(tmp_path):
    """transformers writes no id2label for two outputs."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, vocab_size=99, intermediate_size=12)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    model, labels = load_model(tmp_path)
    assert model.out.out_features == 2 and labels in ({}, {0: "LABEL_0", 1: "LABEL_1"})
