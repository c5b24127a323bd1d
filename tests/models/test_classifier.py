"""Classification heads against Hugging Face's own classes on the folders that `save` writes."""

import itertools

import pytest
import torch
from transformers import AutoModel, AutoModelForMultipleChoice, AutoModelForSequenceClassification

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import HEADS, MaskedLM, ModelConfig
from bort.models.huggingface import load_classifier, load_masked_lm, save_model
from bort.models.initialization import build_classifier, build_model

STYLES = {
    "bert": {"type_vocab": 2, "pad_id": 0},
    "roberta": {"position_offset": 2, "type_vocab": 1, "pad_id": 1},
    "ours": {"pad_id": 1},
}


def body(style: str, **changes) -> MaskedLM:
    sizes = vars(Arch(2, 2, 16, 32)) | {"vocab_size": 280, "positions": 32}
    return randomised(build_model(ModelConfig(**sizes | STYLES[style] | changes), "paper", 0))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter moved, also what starts at 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    from bort.text.tokenizer import train_tokenizer

    return train_tokenizer([f"line {k} of some text" for k in range(50)], 280)


def inputs(pad: int, rows: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 280, (rows, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    ids[0, 7:], mask[0, 7:] = pad, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("style", "head"), list(itertools.product(STYLES, HEADS)))
def test_sequence_classification(tokenizer, tmp_path, style, head):
    """The same logits from plain transformers: ε I and W / ε differ by less than 1e-5."""
    model = randomised(build_classifier(body(style), 3, head)).eval()
    extra = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    save_model(model, tokenizer, tmp_path / "model", extra)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    batch = inputs(model.config.pad_id)
    with torch.no_grad():
        ours, expected = model(**batch), theirs(**batch).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-5 * float(ours.abs().max()), rtol=0)
    loaded, labels = load_classifier(tmp_path / "model")
    assert labels == {0: "a", 1: "b", 2: "c"} and theirs.config.id2label == labels
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_multiple_choice(tokenizer, tmp_path, style):
    model = build_classifier(body(style), 1, choices=True).eval()
    save_model(model, tokenizer, tmp_path / "model")
    theirs = AutoModelForMultipleChoice.from_pretrained(tmp_path / "model").eval()
    batch = inputs(model.config.pad_id, 8)
    with torch.no_grad():
        ours = model(**batch).view(2, 4)
        expected = theirs(**{name: x.view(2, 4, -1) for name, x in batch.items()}).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert load_classifier(tmp_path / "model")[0].choices


def test_spans(tokenizer, tmp_path):
    """By hand: the first state and the mean of each span, in one linear layer."""
    model = build_classifier(body("ours"), 2, spans=2).eval()
    batch, spans = inputs(1), torch.tensor([[[1, 3], [4, 5]], [[2, 9], [1, 2]], [[5, 6], [5, 6]]])
    with torch.no_grad():
        found = model(**batch, spans=spans)
        states = model.encoder(**batch)
        for row in range(3):
            parts = [states[row, 0]] + [states[row, a:b].mean(0) for a, b in spans[row].tolist()]
            expected = model.out(torch.cat(parts))
            torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=1e-5)
    save_model(model, tokenizer, tmp_path / "model")
    loaded, _ = load_classifier(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch, spans=spans), found, atol=1e-5, rtol=1e-5)
        theirs = AutoModel.from_pretrained(tmp_path / "model").eval()(**batch)[0]
    torch.testing.assert_close(theirs, states, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_everything(head):
    model = build_classifier(body("ours"), 2, head)
    model(**inputs(1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.out.parameters())
    words = model.encoder.embeddings.words.weight
    assert words.grad.abs().sum() > 0 and words is model.encoder.embeddings.words.weight


def test_fresh_head_and_the_encoder_of_the_body():
    one = body("ours")
    model = build_classifier(one, 2, seed=3)
    assert model.encoder is one.encoder
    same, other = build_classifier(one, 2, seed=3), build_classifier(one, 2, seed=4)
    assert torch.equal(model.out.weight, same.out.weight)
    assert not torch.equal(model.out.weight, other.out.weight)
    assert not model.out.bias.any() and 0.01 < model.out.weight.std() < 0.04


def test_dropout_only_in_training():
    model = build_classifier(body("ours", dropout=0.5), 2, "bort")
    batch = inputs(1)
    with torch.no_grad():
        assert not torch.equal(model(**batch), model(**batch))
        model.eval()
        assert torch.equal(model(**batch), model(**batch))


def test_an_encoder_is_no_classifier(tokenizer, tmp_path):
    save_model(body("ours"), tokenizer, tmp_path / "model")
    with pytest.raises(BortError, match="is not a fine-tuned model; train.py experiment=finetune"):
        load_classifier(tmp_path / "model")


def test_a_fine_tuned_folder_gives_its_encoder(tokenizer, tmp_path):
    model = build_classifier(body("roberta"), 3)
    save_model(model, tokenizer, tmp_path / "model")
    loaded = load_masked_lm(tmp_path / "model", head_required=False)
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, loaded.encoder.state_dict()[name])
