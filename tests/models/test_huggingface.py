"""Folders of Hugging Face in and out, and what a user reads when one does not fit."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from models_helpers import OWN, SIZES, edit_json, one_line, randomise
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from bort.errors import BortError
from bort.models import huggingface
from bort.models.bert import ModelConfig
from bort.models.initialization import build_empty, build_model

STYLES = {
    "own": OWN,
    "bert": dataclasses.replace(OWN, pad_id=0, type_vocab=2, activation="relu", dropout=0.1),
    "roberta": dataclasses.replace(OWN, position_offset=2, type_vocab=1, layer_norm_eps=1e-7),
}
INPUT = dict(
    input_ids=torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]]),
    attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
)


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reopen(folder: Path):
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


# Weights and config, both directions


@pytest.mark.parametrize(
    "kind, settings",
    [
        (BertForMaskedLM, BertConfig(**SIZES, type_vocab_size=2)),
        (RobertaForMaskedLM, RobertaConfig(**SIZES, type_vocab_size=1)),
    ],
)
def test_round_trip_is_bit_equal(tmp_path, tokenizer, kind, settings):
    theirs = randomise(kind(settings))
    theirs.save_pretrained(tmp_path / "theirs")
    model = huggingface.load_masked_lm(tmp_path / "theirs").eval()
    torch.testing.assert_close(model(**INPUT), theirs(**INPUT).logits, rtol=1e-5, atol=1e-5)
    huggingface.save_model(model, tokenizer, tmp_path / "ours")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "ours"))
    assert after.keys() - before.keys() <= {"lm_head.decoder.bias"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("theirs", "ours"))
    for key in (*SIZES, "type_vocab_size", "pad_token_id", "model_type", "architectures"):
        assert old[key] == new[key], key
    assert torch.equal(reopen(tmp_path / "ours")(**INPUT).logits, theirs(**INPUT).logits)


@pytest.mark.parametrize("style", STYLES)
def test_saved_folders_open_everywhere(tmp_path, tokenizer, style):
    model = randomise(build_empty(STYLES[style]))
    huggingface.save_model(model, tokenizer, tmp_path / "model")
    with safe_open(tmp_path / "model/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    with torch.no_grad():
        theirs, expected = reopen(tmp_path / "model"), model(**INPUT)
        torch.testing.assert_close(theirs(**INPUT).logits, expected, rtol=1e-5, atol=1e-5)
        again = huggingface.load_masked_lm(tmp_path / "model").eval()
        assert torch.equal(again(**INPUT), expected)
    assert again.config == model.config
    settings = json.loads((tmp_path / "model/config.json").read_text())
    assert settings["cls_token_id"] == 0 and settings["sep_token_id"] == 2
    assert settings["tie_word_embeddings"] is True and settings["dtype"] == "float32"
    assert settings.get("no_token_types", False) is (style == "own")


def test_the_bias_of_robertas_decoder_has_both_its_names(tmp_path, tokenizer):
    """transformers 4.44 to 4.49 set `lm_head.bias` to that of the decoder, 0 where it is absent."""
    sizes = {"depth": 1, "heads": 1, "hidden": 8, "intermediate": 8, "vocab_size": 290}
    model = randomise(build_model(ModelConfig(**sizes, position_offset=2), "paper", 0))
    huggingface.save_model(model, tokenizer, tmp_path / "saved")
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    expected = dict(model.named_parameters())["head.bias"].detach()
    for name in ("lm_head.bias", "lm_head.decoder.bias"):
        assert torch.equal(weights[name], expected) and expected.any()


def test_a_token_type_trained_since_is_kept(tmp_path, tokenizer):
    huggingface.save_model(build_model(OWN), tokenizer, tmp_path / "model")
    name = "bert.embeddings.token_type_embeddings.weight"
    edit_weights(tmp_path / "model", lambda weights: weights[name].fill_(0.5))
    model = huggingface.load_masked_lm(tmp_path / "model").eval()
    assert model.config.type_vocab == 1
    expected = reopen(tmp_path / "model")(**INPUT).logits
    torch.testing.assert_close(model(**INPUT), expected, rtol=1e-5, atol=1e-5)


def test_old_and_odd_names(shared, hub_folder):  # case P3
    plain, old = (
        huggingface.load_masked_lm(shared / "cases/models" / name).state_dict()
        for name in ("bert-tiny", "bert-tiny-oldnames")
    )
    assert all(torch.equal(plain[name], old[name]) for name in plain)

    expected = huggingface.load_masked_lm(hub_folder).state_dict()

    def rename(weights):
        for name in list(weights):
            weights[name.removeprefix("bert.")] = weights.pop(name)
        weights["cls.predictions.decoder.weight"] = weights["embeddings.word_embeddings.weight"] + 0
        weights["cls.predictions.decoder.bias"] = weights.pop("cls.predictions.bias")
        weights["embeddings.position_ids"] = torch.arange(20)
        weights["pooler.dense.weight"] = torch.ones(8, 8)
        weights["cls.seq_relationship.weight"] = torch.ones(2, 8)

    edit_weights(hub_folder, rename)
    found = huggingface.load_masked_lm(hub_folder).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("form", ["sharded", "bin", "half"])
def test_other_files_of_weights(tmp_path, hub_folder, form):
    expected = huggingface.load_masked_lm(hub_folder).state_dict()
    whole = hub_folder / "model.safetensors"
    if form == "sharded":
        BertForMaskedLM.from_pretrained(hub_folder).save_pretrained(
            tmp_path / "other", max_shard_size="4KB"
        )
        assert len(list((tmp_path / "other").glob("model-*.safetensors"))) > 1
        hub_folder = tmp_path / "other"
    elif form == "bin":
        torch.save(load_file(whole), hub_folder / "pytorch_model.bin")
        whole.unlink()
    else:
        edit_weights(hub_folder, lambda w: w.update({k: t.half() for k, t in w.items()}))
        expected = {name: weight.half().float() for name, weight in expected.items()}
    found = huggingface.load_masked_lm(hub_folder).state_dict()
    assert all(weight.dtype == torch.float32 for weight in found.values())
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_encoder_alone(tmp_path, hub_folder):
    encoder = BertModel.from_pretrained(hub_folder, add_pooling_layer=True)
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(BortError) as error:
        huggingface.load_masked_lm(tmp_path / "encoder")
    assert "usable as an encoder, not as a teacher: no masked-LM head" in one_line(error)
    before = torch.get_rng_state()
    one, two = (
        huggingface.load_masked_lm(tmp_path / "encoder", head_required=False) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    expected = encoder.eval()(**INPUT).last_hidden_state
    torch.testing.assert_close(one.eval().encode(**INPUT), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(one.head.dense.weight, two.head.dense.weight)
    assert 0.03 < one.head.dense.weight.std() < 0.09
    assert (one.head.norm.weight == 1).all() and not one.head.bias.any()


@pytest.mark.parametrize("name", ["amazon/bort", "Amazon/Bort"])
def test_amazon_bort_is_refused_by_name(name, no_hub):
    with pytest.raises(BortError, match="usable as an encoder, not as a teacher"):
        huggingface.load_masked_lm(name)


def test_the_random_head_of_amazon_bort_is_not_read(hub_folder, monkeypatch):
    expected = huggingface.load_masked_lm(hub_folder).state_dict()
    monkeypatch.setattr(huggingface, "fetch_model", lambda name: hub_folder)
    found = huggingface.load_masked_lm("amazon/bort", head_required=False).state_dict()
    for name in expected:
        assert torch.equal(expected[name], found[name]) is not name.startswith("head."), name


# Weights that do not fit


def test_missing_weight_is_named(shared, hub_folder):  # case P3
    name = "bert.encoder.layer.1.attention.self.key.weight"
    edit_weights(hub_folder, lambda weights: weights.pop(name))
    for folder in (hub_folder, shared / "cases/models/bert-tiny-hole"):
        for head_required in (True, False):
            with pytest.raises(BortError) as error:
                huggingface.load_masked_lm(folder, head_required)
            assert name in one_line(error)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda w: w.update({"cls.predictions.decoder.weight": torch.ones(300, 8)}),
            "decoder of its own .cls.predictions.decoder.weight.",
        ),
        (lambda w: w.update({"cls.predictions.decoder.bias": torch.ones(300)}), "of its own"),
        (lambda w: w.pop("cls.predictions.transform.dense.bias"), "lacks the weight cls.*bias"),
        (
            lambda w: w.update({"bert.embeddings.LayerNorm.weight": torch.ones(9)}),
            r"bert.embeddings.LayerNorm.weight has shape \[9\], but config.json asks for \[8\]",
        ),
        (
            lambda w: w.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(8)}),
            "has the weight bert.encoder.layer.2.output.dense.bias, which .* no place",
        ),
    ],
)
def test_weights_that_do_not_fit(hub_folder, change, message):
    edit_weights(hub_folder, change)
    with pytest.raises(BortError, match=message) as error:
        huggingface.load_masked_lm(hub_folder)
    one_line(error)


@pytest.mark.parametrize("keep", [0.5, 0.01, 0.0])
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_cut_files(hub_folder, form, keep):
    path, whole = hub_folder / form, hub_folder / "model.safetensors"
    if path != whole:
        torch.save(load_file(whole), path)
        whole.unlink()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(BortError, match="damaged or cut off|more than plain tensors") as error:
        huggingface.load_masked_lm(hub_folder)
    assert form in one_line(error)


def test_missing_files(hub_folder):
    (hub_folder / "model.safetensors").rename(hub_folder / "somewhere")
    with pytest.raises(BortError, match="holds no weights; looked for model.safetensors"):
        huggingface.load_masked_lm(hub_folder)
    index = {"weight_map": {"bert.embeddings.LayerNorm.bias": "../model-1.safetensors"}}
    (hub_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(hub_folder / "somewhere", hub_folder.parent / "model-1.safetensors")
    with pytest.raises(BortError, match="model-1.safetensors is missing"):
        huggingface.load_masked_lm(hub_folder)


def test_pickles_are_not_run(shared, tmp_path, monkeypatch):  # case R4
    monkeypatch.chdir(tmp_path)
    folder = shared / "cases/R4-pickled-weights/model"
    for head_required in (True, False):
        with pytest.raises(BortError, match="weights must be safetensors") as error:
            huggingface.load_masked_lm(folder, head_required)
        assert "pytorch_model.bin" in one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_tensor_file_must_be_plain(hub_folder):
    weights = load_file(hub_folder / "model.safetensors")
    (hub_folder / "model.safetensors").unlink()
    torch.save({"model": weights}, hub_folder / "pytorch_model.bin")
    with pytest.raises(BortError, match="not a plain dictionary of tensors"):
        huggingface.load_masked_lm(hub_folder)


def test_no_code_of_a_folder_is_imported(hub_folder, tmp_path):
    code = f"open({str(tmp_path / 'code-ran.txt')!r}, 'w')\nclass Tok: pass\nclass Config: pass\n"
    (hub_folder / "evil.py").write_text(code)
    auto = {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Tok", "evil.Tok"]}
    edit_json(hub_folder / "config.json", auto_map=auto)
    edit_json(hub_folder / "tokenizer_config.json", auto_map=auto)
    huggingface.load_masked_lm(hub_folder)
    try:
        huggingface.load_tokenizer(hub_folder)
    except BortError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "code-ran.txt").exists()
    assert not any("evil" in module for module in sys.modules)


# Where a name leads


def test_weights_that_a_process_has_in_pieces(tmp_path, tokenizer):
    """What FSDP gathers is saved, not the pieces that the model holds."""
    model, whole = build_model(OWN), build_model(OWN, seed=1)
    for parameter in model.parameters():
        parameter.data = parameter.data.flatten()[:0]
    huggingface.save_model(model, tokenizer, tmp_path / "model", state=whole.state_dict())
    found = huggingface.load_masked_lm(tmp_path / "model").state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())


def test_an_onnx_export_is_named(hub_folder, tmp_path):
    """It has config.json and a tokenizer, and no weights that torch reads."""
    shutil.copytree(hub_folder, tmp_path / "shipped")
    (tmp_path / "shipped" / "model.safetensors").rename(tmp_path / "shipped" / "model.onnx")
    with pytest.raises(BortError, match="shipped is an ONNX export, which .*predict.py runs") as e:
        huggingface.load_model(tmp_path / "shipped")
    one_line(e)


# Writing


def test_a_folder_is_replaced_whole(tmp_path, tokenizer, monkeypatch):
    folder, first = tmp_path / "model", build_model(OWN, seed=1)
    huggingface.save_model(first, tokenizer, folder)
    (folder / "special_tokens_map.json").write_text("of the old model")
    (folder / "notes.txt").write_text("of the user")
    huggingface.save_model(build_model(OWN, seed=2), tokenizer, folder)
    assert os.listdir(tmp_path) == ["model"]
    assert not (folder / "special_tokens_map.json").exists()
    assert (folder / "notes.txt").read_text() == "of the user"
    second = huggingface.load_masked_lm(folder).encoder.embeddings.words.weight
    assert not torch.equal(second, first.encoder.embeddings.words.weight)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    rename = Path.rename

    def stuck(self, target):
        return full() if ".new-" in self.name else rename(self, target)

    for owner, name, failure in ((huggingface, "save_tokenizer", full), (Path, "rename", stuck)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failure)
            with pytest.raises(BortError, match="no space left for .*model") as error:
                huggingface.save_model(first, tokenizer, folder)
        one_line(error)
        assert os.listdir(tmp_path) == ["model"]
        assert torch.equal(
            huggingface.load_masked_lm(folder).encoder.embeddings.words.weight, second
        )


@pytest.mark.parametrize("content", ["a file", "a folder"])
def test_what_is_not_a_model_is_not_replaced(tmp_path, tokenizer, content):
    place = tmp_path / "mine"
    if content == "a folder":
        place.mkdir()
        (place / "thesis.tex").write_text("years of work")
    else:
        place.write_text("years of work")
    with pytest.raises(BortError, match="mine exists and is not a model folder") as error:
        huggingface.save_model(build_model(OWN), tokenizer, place)
    one_line(error)
    assert "years of work" in (place / "thesis.tex" if place.is_dir() else place).read_text()
