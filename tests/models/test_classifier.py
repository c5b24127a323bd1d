"""Classification heads against Hugging Face's own classes on the folders that `save` writes."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMultipleChoice, AutoModelForSequenceClassification

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import HEADS, POOLED_HEADS, Classifier, MaskedLM, ModelConfig
from bort.models.huggingface import find_classifier, load_classifier, load_masked_lm, save_model
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


# ------------------------------------------------------------------------------------ pooled heads

LENGTHS = (7, 12, 3, 9, 12, 5)  # of the texts, as rows or as three pairs


def texts(pad: int) -> dict[str, torch.Tensor]:
    """Six texts of unequal length."""
    ids = torch.randint(5, 280, (6, 12), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


def build_pooled(style: str, head: str, kind: str) -> Classifier:
    """A classifier of 3 classes, of a number far from 0, or of choices, with random weights."""
    scale = (20.0, -3.0) if kind == "number" else None
    outputs = 3 if kind == "classes" else 1
    model = build_classifier(body(style), outputs, head, choices=kind == "choices", scale=scale)
    return randomised(model).eval()


def answer_by_hand(folder, batch: dict[str, torch.Tensor], head: str, kind: str) -> torch.Tensor:
    """What the folder answers, by transformers' encoder in float64: each text alone, unpadded."""
    encoder = AutoModel.from_pretrained(folder).double().eval()
    joined = next(w for k, w in load_file(folder / "model.safetensors").items() if "class" in k)
    weight, bias = joined[:, :-1].double(), joined[:, -1].double()
    with torch.no_grad():
        means = [
            encoder(row[None, :length]).last_hidden_state[0].mean(0)
            for row, length in zip(batch["input_ids"], LENGTHS, strict=True)
        ]
    if head == "towers":
        pairs = [(means[0], means[1]), (means[2], means[3]), (means[4], means[5])]
        means = [torch.cat([u, v, (u - v).abs(), u * v]) for u, v in pairs]
        if kind == "number":
            means = [(u @ v / (u.norm() * v.norm()))[None] for u, v in pairs]
    return torch.stack(means) @ weight.T + bias


KINDS = [("mean", "classes"), ("mean", "number"), ("mean", "choices")]
KINDS += [("towers", "classes"), ("towers", "number")]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_pooled_heads_against_transformers_encoder(tokenizer, tmp_path, style, head, kind):
    """The folder opens as an encoder, and the head on it is that of the formula."""
    model, folder = build_pooled(style, head, kind), tmp_path / "model"
    save_model(model, tokenizer, folder)
    batch = texts(model.config.pad_id)
    expected = answer_by_hand(folder, batch, head, kind)
    assert expected.std(0).min() > 0.01
    loaded, _ = load_classifier(folder)
    assert (loaded.head, loaded.choices) == (head, kind == "choices")
    if kind == "number":  # its bias is part of the offset
        assert loaded.scale == pytest.approx((20.0 - 3.0 * model.out.bias.item(), -3.0))
    for one in (model, loaded):
        with torch.no_grad():
            answers = one(**batch).double()
            exact = one.double()(**batch).double()
        torch.testing.assert_close(answers, expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(exact, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_no_class_of_transformers_answers_with_a_pooled_head(
    tokenizer, tmp_path, style, head, kind
):
    """It would be a fresh head on another state; they find another shape, and refuse."""
    model, folder = build_pooled(style, head, kind), tmp_path / "model"
    names = {"id2label": {str(k): f"l{k}" for k in range(model.out.out_features)}}
    save_model(model, tokenizer, folder, names if kind == "classes" else None)
    settings = json.loads((folder / "config.json").read_text())
    family = "RobertaModel" if style == "roberta" else "BertModel"
    assert settings["architectures"] == [family] and settings["bort_head"] == head
    opener = AutoModelForMultipleChoice if kind == "choices" else AutoModelForSequenceClassification
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        opener.from_pretrained(folder)


def test_a_folder_that_others_trained_on_is_theirs(tokenizer, tmp_path):
    """The key of bort's head stays in config.json, when transformers put theirs on the encoder."""
    folder = tmp_path / "model"
    save_model(build_pooled("bert", "towers", "classes"), tokenizer, folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, ignore_mismatched_sizes=True
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["bort_head"] == "towers"
    loaded, _ = load_classifier(tmp_path / "theirs")
    batch = texts(0)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch), theirs(**batch).logits, atol=1e-5, rtol=1e-5)


def test_damaged_pooled_folders(tokenizer, tmp_path):
    folder = tmp_path / "model"
    save_model(build_pooled("ours", "mean", "classes"), tokenizer, folder)
    settings = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"bort_head": "max"}, "has bort_head='max'; known are mean and towers"),
        ({"bort_head": ["mean"]}, "has bort_head=.*; known are mean and towers"),
        ({"bort_kind": None}, "has bort_kind=None; known are SequenceClassification and Mult"),
        ({"bort_head": "towers"}, r"classifier.weight has shape .*, but .* asks for rows of 65"),
    ):
        (folder / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(BortError, match=message) as error:
            load_classifier(folder)
        assert len(str(error.value)) <= 200 + len(str(folder))
    (folder / "config.json").write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]  # somebody kept the encoder alone
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BortError, match="is not a fine-tuned model"):
        load_classifier(folder)


def test_two_passes_of_towers_give_the_answers_of_one(monkeypatch):
    """Short texts beside long ones are encoded apart from them, without padding, where it pays."""
    model = build_pooled("roberta", "towers", "classes")
    passes = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape))
    lengths = torch.tensor([4, 12, 3, 11] * 4)
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(5, 280, mask.shape, generator=torch.Generator().manual_seed(3))
    batch = {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}
    batch["token_types"] = torch.zeros_like(ids)
    with torch.no_grad():
        apart = model(**batch)
        few = torch.cat([model(**{k: x[n : n + 2] for k, x in batch.items()}) for n in (0, 14)])
    assert passes == [(8, 4), (8, 12), (2, 12), (2, 12)]
    torch.testing.assert_close(apart[[0, 7]], few, atol=1e-5, rtol=1e-5)
    passes.clear()
    model(**batch | {"attention_mask": torch.ones_like(mask)})
    assert passes == [(16, 12)]


def test_more_padding_changes_no_mean():
    for head in POOLED_HEADS:
        model, batch = build_pooled("bert", head, "classes"), texts(0)
        wider = {key: torch.nn.functional.pad(x, (0, 9)) for key, x in batch.items()}
        with torch.no_grad():
            torch.testing.assert_close(model(**batch), model(**wider), atol=1e-5, rtol=1e-5)
            alone = model(batch["input_ids"][4:5].expand(2, -1))
            masked = model(batch["input_ids"][4:5].expand(2, -1), torch.ones(2, 12))
        torch.testing.assert_close(alone, masked, atol=1e-6, rtol=1e-6)


def test_towers_learn_from_both_texts():
    for kind in ("classes", "number"):
        model, batch = build_pooled("ours", "towers", kind).train(), texts(1)
        model(**batch).sum().backward()
        words = model.encoder.embeddings.words.weight.grad
        assert words[batch["input_ids"][0, 0]].any() and words[batch["input_ids"][1, 0]].any()
        assert model.out.weight.grad.abs().min() > 0
    with pytest.raises(BortError, match="5 texts are no pairs; head=towers takes two of each"):
        model(batch["input_ids"][:5])


def test_a_teacher_does_not_answer_by_towers(tokenizer, tmp_path):
    """It gets texts in one sequence; a mean head answers these."""
    for head, answers in (("mean", True), ("towers", False)):
        save_model(build_pooled("ours", head, "classes"), tokenizer, tmp_path / head)
        assert (find_classifier(tmp_path / head) is not None) == answers
