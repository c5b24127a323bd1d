"""The lookup with a sparse gradient against torch's own embedding, bit by bit."""

import pytest
import torch
from models_helpers import BERT, OWN, ROBERTA, TINY, padded_batch, randomise
from torch import nn

from bort.models import word_lookup
from bort.models.bert import Classifier, MaskedLM, build_empty
from bort.models.word_lookup import look_up_tied


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(word_lookup, "WORTHWHILE", 0)


def backward(model: MaskedLM, seed: int, autocast: bool = False, forwards: int = 1) -> None:
    """One backward pass of a loss of the logits of so many forward passes."""
    total = 0.0
    for number in range(forwards):
        ids, mask, types = padded_batch(model.config, seed + number)
        types = types if model.config.type_vocab else None
        positions = mask.flatten().nonzero().flatten()[::3]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(ids, mask, types, positions)
        total = total + logits.float().logsumexp(-1).sum()
    total.backward()


def equal_gradients(one: nn.Module, two: nn.Module) -> bool:
    return all(
        torch.equal(mine.grad, theirs.grad)
        for mine, theirs in zip(one.parameters(), two.parameters(), strict=True)
    )


@pytest.mark.parametrize("pad", [None, 0, 3])
def test_gradient_is_that_of_torch(always, pad):
    """Words many times, padding, and words that do not occur."""
    words = nn.Embedding(50, 7, padding_idx=pad)
    ids = torch.randint(0, 30, (4, 60), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(4, 60, 7, generator=torch.Generator().manual_seed(1))
    (dense,) = torch.autograd.grad((words(ids) * weights).sum(), words.weight)
    tied = look_up_tied(words, ids)
    assert torch.equal(tied, words(ids))
    (sparse,) = torch.autograd.grad((tied * weights).sum(), words.weight)
    assert sparse.is_sparse and sparse.is_coalesced() and sparse._nnz() == len(ids.unique())
    assert torch.equal(sparse.to_dense(), dense)
    assert pad is None or not dense[pad].any()


@pytest.mark.parametrize(
    "config", [TINY, BERT, ROBERTA, OWN], ids=["tiny", "bert", "roberta", "own"]
)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("forwards", [1, 3])
def test_gradients_of_a_masked_lm(monkeypatch, config, autocast, forwards):
    """All gradients, of several forward passes before one backward pass, and accumulated twice."""
    ours, reference = (randomise(build_empty(config)).train() for _ in range(2))
    for seed in (0, 5):
        backward(reference, seed, autocast, forwards)
        with monkeypatch.context() as patch:
            patch.setattr(word_lookup, "WORTHWHILE", 0)
            backward(ours, seed, autocast, forwards)
        assert not ours.encoder.embeddings.words.weight.grad.is_sparse
        assert equal_gradients(ours, reference)


def test_it_is_used_from_a_size_on(monkeypatch):
    """The gradient that reaches the matrix is sparse only where a step gains by it."""
    words = nn.Embedding(50, 8)

    def is_sparse() -> bool:
        (gradient,) = torch.autograd.grad(
            look_up_tied(words, torch.ones(2, 3).long()).sum(), words.weight
        )
        return gradient.is_sparse

    assert not is_sparse()
    monkeypatch.setattr(word_lookup, "WORTHWHILE", 400)
    assert is_sparse()
    monkeypatch.setattr(word_lookup, "WORTHWHILE", 401)
    assert not is_sparse()


def test_no_optimizer_meets_a_sparse_gradient(always):
    """Fused AdamW takes the gradients of every way through the model, decoded or not."""
    model = randomise(build_empty(TINY)).train()
    classifier = Classifier(TINY, 3)
    classifier.encoder = model.encoder
    ids = padded_batch(TINY, 0)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for compute in (model, model.encode, model.head_states, classifier, model.encoder):
        before = model.encoder.embeddings.words.weight.detach().clone()
        optimizer.zero_grad()
        compute(ids).sum().backward()
        assert not model.encoder.embeddings.words.weight.grad.is_sparse
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert not torch.equal(model.encoder.embeddings.words.weight, before)


def test_a_compiled_model_has_the_same_gradients(always):
    """Without a break in its graph: the compiler takes torch's own embedding."""
    ours, reference = (randomise(build_empty(TINY)).train() for _ in range(2))
    ids = padded_batch(TINY, 0)[0]
    reference(ids).logsumexp(-1).sum().backward()
    torch.compile(ours, backend="eager", fullgraph=True)(ids).logsumexp(-1).sum().backward()
    for mine, theirs in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_a_functional_call_has_the_same_gradients(always):
    """`torch.func` wraps parameters, and its transforms know no sparse gradients."""
    model = randomise(build_empty(TINY)).train()
    ids = padded_batch(TINY, 0)[0]
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict) -> torch.Tensor:
        return torch.func.functional_call(model, values, (ids,)).logsumexp(-1).sum()

    gradients = torch.func.grad(loss)(parameters)
    model(ids).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
