"""A config.json becomes a ModelConfig, or one line that says why not."""

import json

import pytest
from models_helpers import OWN, edit_json, one_line

from bort.errors import BortError
from bort.models import huggingface
from bort.models.initialization import build_model
from bort.teachers.opening import open_teacher, read_shape


def test_extra_keys_of_config(tmp_path, tokenizer):
    huggingface.save_model(
        build_model(OWN), tokenizer, tmp_path / "model", extra={"bort": {"steps": 3}}
    )
    assert json.loads((tmp_path / "model/config.json").read_text())["bort"] == {"steps": 3}


def test_defaults_of_config_are_those_of_hugging_face(hub_folder):
    left_out = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob")
    path = hub_folder / "config.json"
    settings = {k: v for k, v in json.loads(path.read_text()).items() if k not in left_out}
    path.write_text(json.dumps(settings | {"pad_token_id": None}))
    config = huggingface.load_masked_lm(hub_folder).config
    assert (config.activation, config.dropout, config.attention_dropout) == ("gelu", 0.1, 0.1)
    assert config.pad_id == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gpt2"}, "model_type=gpt2; supported are bert, roberta, xlm-roberta and"),
        ({"model_type": None}, "supported are bert, roberta, xlm-roberta and camembert"),
        ({"position_embedding_type": "relative_key"}, "only absolute"),
        ({"is_decoder": True}, "only bidirectional"),
        (
            {"quantization_config": {"bits": 4}},
            "config.json says that the model is quantized; give",
        ),
        ({"hidden_act": "silu"}, "config.json: activation 'silu' is not supported"),
        ({"hidden_size": "8"}, "hidden_size='8', which is not a number"),
        ({"num_attention_heads": 3}, "config.json: arch.heads=3 does not divide"),
        ({"tie_word_embeddings": False}, "decoder of its own"),
    ],
)
def test_configs_that_do_not_fit(hub_folder, change, message):
    edit_json(hub_folder / "config.json", **change)
    with pytest.raises(BortError, match=message) as error:
        huggingface.load_masked_lm(hub_folder)
    one_line(error)


def test_a_quantized_model_is_opened_nowhere(hub_folder):
    """As teacher, for fine-tuning and export, to be continued, and for its tokenizer."""
    edit_json(hub_folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    readers = (
        huggingface.load_model,
        huggingface.load_classifier,
        huggingface.load_masked_lm_or_encoder,
        huggingface.read_model_config,
        huggingface.load_tokenizer,
        open_teacher,
        read_shape,
    )
    for read in readers:
        with pytest.raises(BortError, match="is quantized; give it in full precision") as error:
            read(hub_folder)
        one_line(error)
    edit_json(hub_folder / "config.json", quantization_config=None)
    assert huggingface.load_masked_lm(hub_folder)


@pytest.mark.parametrize("content, message", [("{", "is not valid JSON"), ("[]", "JSON object")])
def test_config_that_is_no_config(hub_folder, content, message):
    (hub_folder / "config.json").write_text(content)
    with pytest.raises(BortError, match=message) as error:
        huggingface.load_masked_lm(hub_folder)
    one_line(error)
