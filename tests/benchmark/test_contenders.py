"""What is timed is the whole model, in every engine."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
)

from bort.benchmark.contenders import (
    Contender,
    describe_encoders,
    export_forms,
    load_calls,
    make_inputs,
    open_contender,
)
from bort.benchmark.settings import BenchmarkConfig
from bort.config.search import register
from bort.embeddings.embedder import make_embedder, save_embedder
from bort.models.arch import Arch
from bort.models.huggingface import load_model, load_tokenizer

register(BenchmarkConfig)


ENGINES = ["measured", "onnx", "onnx_int8"]


SMALL = Arch(2, 2, 32, 64)


KINDS = {
    "masked LM": None,
    "classifier": "glue/rte",
    "choices": "superglue/copa",
    "spans": "superglue/wic",
    "two texts": "glue/rte",
}


THEIRS = {
    "masked LM": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
    "choices": AutoModelForMultipleChoice,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_timed_is_the_whole_model(folders, tmp_path, kind):
    """The calls' answers are Hugging Face's, from the same folder and words."""
    given = open_contender(str(folders / kind))
    assert (given.measures, given.arch, given.limit, given.vocab) == (kind, SMALL, 64, 320)
    assert given.disk == (folders / kind / "model.safetensors").stat().st_size
    assert given.parameters == sum(p.numel() for p in load_model(folders / kind)[0].parameters())
    answer = load_calls(given, 1)(3, 20)()
    if kind in THEIRS:
        theirs = THEIRS[kind].from_pretrained(folders / kind).eval()
        ids = torch.from_numpy(make_inputs(["input_ids"], 320, 3, 20)["input_ids"])
        with torch.no_grad():
            expected = theirs(ids[:, None] if kind == "choices" else ids).logits
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)
    assert len(answer) == 3
    if kind not in ("masked LM", "spans", "two texts"):
        return
    found = list(export_forms(given, ENGINES, tmp_path))
    assert [each.engine for each in found] == ENGINES and found[0] == given
    onnx, int8 = (torch.from_numpy(load_calls(x, 1)(3, 20)()[0]) for x in found[1:])
    torch.testing.assert_close(onnx, answer, atol=1e-4, rtol=1e-4)
    assert 1e-4 < (int8 - answer).abs().max() < 0.2 * answer.abs().max()
    assert found[1].disk > found[2].disk == found[2].file.stat().st_size
    # An exported folder is measured as it is, and knows its engine and its weights.
    for engine, each in zip(ENGINES[1:], found[1:], strict=True):
        again = open_contender(str(each.file.parent))
        assert (again.engine, again.measures, again.file) == (engine, kind, each.file)
        assert (again.arch, again.vocab, again.limit) == (SMALL, 320, 64)
        assert again.parameters == given.parameters  # not those of the file, which folds some
        assert list(export_forms(again, ENGINES, tmp_path)) == [again]


def test_encoders_of_a_shape(tmp_path):
    encoder = Contender.of_random_encoder(SMALL, "x", 500, 512)
    found = list(describe_encoders(encoder, ENGINES, tmp_path, huggingface=True))
    assert [each.engine for each in found] == ["huggingface", *ENGINES]
    sizes = dict(vocab_size=500, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    theirs = BertModel(BertConfig(**sizes, intermediate_size=64), add_pooling_layer=False)
    assert found[0].parameters == sum(p.numel() for p in theirs.parameters())
    assert {each.parameters for each in found[1:]} == {found[0].parameters - 2 * 32}  # token types
    for each in found:
        call = load_calls(each, 1)(2, 30)
        if each.engine == "huggingface":
            assert call().last_hidden_state.shape == (2, 30, 32)
        if each.file:
            assert call()[0].shape == (2, 30, 32) and each.disk == each.file.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.onnx.onnx", "x.onnx_int8.onnx"]


def test_a_model_that_embeds_is_timed_with_its_pooling(folders, tmp_path):
    """In PyTorch and as int8 with the pooling in the graph: a vector for each text."""
    model, tokenizer = load_model(folders / "masked LM")[0], load_tokenizer(folders / "masked LM")
    save_embedder(make_embedder(model.encoder), tokenizer, tmp_path / "embedder")
    opened = open_contender(str(tmp_path / "embedder"))
    assert (opened.measures, opened.engine, opened.arch) == ("embedding", "measured", SMALL)
    vectors = load_calls(opened, 1)(3, 20)()
    assert vectors.shape == (3, 32)
    (int8,) = export_forms(opened, ["onnx_int8"], tmp_path)
    answer = load_calls(int8, 1)(3, 20)()[0]
    assert torch.cosine_similarity(torch.from_numpy(answer), vectors).min() > 0.95
    again = open_contender(str(int8.file.parent))
    assert (again.measures, again.engine) == ("embedding", "onnx_int8")
    assert again.parameters == opened.parameters
