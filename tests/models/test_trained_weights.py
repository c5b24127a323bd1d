"""Lookups and products with trained weights against torch's own, bit by bit."""

import copy
import gc
import weakref

import pytest
import torch
from models_helpers import BERT, OWN, ROBERTA, TINY, padded_batch, randomise
from torch import nn

from bort.models import trained_weights
from bort.models.bert import Classifier, MaskedLM
from bort.models.initialization import build_empty
from bort.models.trained_weights import Linear, SharedWords, look_up_tied


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(trained_weights, "WORTHWHILE", 0)


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


def equal_gradients(one: nn.Module, two: nn.Module, but: str | None = None) -> bool:
    theirs = dict(two.named_parameters())
    return all(
        torch.equal(mine.grad, theirs[name].grad)
        for name, mine in one.named_parameters()
        if name != but
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
            patch.setattr(trained_weights, "WORTHWHILE", 0)
            backward(ours, seed, autocast, forwards)
        assert not ours.encoder.embeddings.words.weight.grad.is_sparse
        # In bf16, passes are added as (a + b) + (c + d), not as ((a + b) + c) + d.
        summed = "encoder.embeddings.words.weight" if autocast and forwards > 1 else None
        assert equal_gradients(ours, reference, but=summed)
        mine, theirs = (m.encoder.embeddings.words.weight.grad for m in (ours, reference))
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6 * theirs.abs().max())


def test_it_is_used_from_a_size_on(monkeypatch):
    """The gradient that reaches the matrix is sparse only where a step gains by it."""
    words = nn.Embedding(50, 8)

    def is_sparse() -> bool:
        (gradient,) = torch.autograd.grad(
            look_up_tied(words, torch.ones(2, 3).long()).sum(), words.weight
        )
        return gradient.is_sparse

    assert not is_sparse()
    monkeypatch.setattr(trained_weights, "WORTHWHILE", 400)
    assert is_sparse()
    monkeypatch.setattr(trained_weights, "WORTHWHILE", 401)
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


# ------------------------------------------------------------------- in a bf16 training on a CPU


@pytest.fixture
def kept(always, monkeypatch):
    """Memory of every size is kept from step to step, and gradients are computed by parts."""
    monkeypatch.setattr(trained_weights, "KEPT", 0)
    monkeypatch.setattr(trained_weights, "ROWS", 64)


def make_linears(
    inputs: int = 24, outputs: int = 40, bias: bool = True
) -> tuple[Linear, nn.Linear]:
    """Make one of ours and one of torch's with the same weights."""
    torch.manual_seed(0)
    ours, theirs = Linear(inputs, outputs, bias), nn.Linear(inputs, outputs, bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run_linear(layer: nn.Linear, x: torch.Tensor, factors: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of a layer, and the gradients of its input and its parameters."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    return [y.detach(), *torch.autograd.grad((y.float() * factors).sum(), wanted)]


@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 5, 6), (0, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_that_of_autocast(kept, shape, dtype, bias):
    """Bit by bit, for every number of dimensions, without rows and without bias."""
    ours, theirs = make_linears(6, 130, bias)
    x, factors = torch.randn(shape).to(dtype), torch.randn(*shape[:-1], 130)
    found, expected = (run_linear(layer, x, factors) for layer in (ours, theirs))
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert all(torch.equal(mine, torchs) for mine, torchs in zip(found, expected, strict=True))


def test_gradients_of_a_linear_layer_are_right(kept):
    """Against float64, within what bf16 rounds."""
    layer, exact = make_linears(64, 96)
    x, factors = torch.randn(50, 64), torch.randn(50, 96)
    found = run_linear(layer, x, factors)
    exact, x = exact.double(), x.double().requires_grad_()
    y = exact(x)
    wanted = torch.autograd.grad((y * factors).sum(), [x, exact.weight, exact.bias])
    for mine, right in zip(found, [y, *wanted], strict=True):
        assert (mine.double() - right).norm() < 0.01 * right.norm()


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_gets_no_gradient(kept, frozen):
    ours, theirs = make_linears()
    for layer in (ours, theirs):
        getattr(layer, frozen).requires_grad_(False)
    x, factors = torch.randn(7, 24), torch.randn(7, 40)
    found, expected = (run_linear(layer, x, factors) for layer in (ours, theirs))
    assert all(torch.equal(mine, torchs) for mine, torchs in zip(found, expected, strict=True))


def test_without_autocast_a_linear_layer_is_torchs(kept):
    """In float32, without gradients, and on a processor without products in bf16."""
    ours, theirs = make_linears()
    x = torch.randn(7, 24)
    assert torch.equal(ours(x), theirs(x)) and type(ours(x).grad_fn) is type(theirs(x).grad_fn)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_a_gradient_that_is_held_is_not_written_over(kept):
    """Memory is used again only when nobody else has it."""
    model = randomise(build_empty(TINY)).train()
    names, parameters = zip(*model.named_parameters(), strict=True)

    def compute(seed: int) -> tuple[torch.Tensor, ...]:
        ids = padded_batch(TINY, seed)[0]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids).float().logsumexp(-1).sum()
        return torch.autograd.grad(loss, parameters)

    first = compute(0)
    before = [gradient.clone() for gradient in first]
    second = compute(1)
    for name, held, copied, other in zip(names, first, before, second, strict=True):
        assert torch.equal(held, copied), name
        assert held.data_ptr() != other.data_ptr(), name
    assert not torch.equal(first[0], second[0])


def test_memory_is_kept_from_step_to_step_and_dies_with_the_model(kept):
    model = randomise(build_empty(TINY)).train()
    weights = [model.encoder.embeddings.words.weight, model.encoder.layers[0].up.weight]
    places = []
    for seed in range(3):
        model.zero_grad()
        backward(model, seed, autocast=True)
        places.append([weight.grad.data_ptr() for weight in weights])
        assert all(weight.grad.dtype == torch.float32 for weight in weights)
    assert places[0] == places[1] == places[2]
    gradient = weakref.ref(weights[0].grad.untyped_storage())
    assert not torch.equal(copy.deepcopy(model).encoder.embeddings.words.weight, weights[0].grad)
    del model, weights
    gc.collect()
    assert gradient() is None


def test_two_backward_passes_of_one_graph_add_up(kept):
    model = randomise(build_empty(TINY)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(padded_batch(TINY, 0)[0]).float().logsumexp(-1).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        assert torch.equal(parameter.grad, 2 * gradient)


@pytest.mark.parametrize("used", ["both", "decoder", "lookup", "decoder twice"])
def test_shared_words_have_the_gradients_of_their_uses(kept, used):
    """Whatever a loss reaches, and whichever of the two knows nothing of the other."""
    words = nn.Embedding(300, 16, padding_idx=1)
    bias = nn.Parameter(torch.randn(300))
    ids = torch.randint(0, 40, (3, 20), generator=torch.Generator().manual_seed(0))
    factors = torch.randn(300)

    def compute(look_up, decode) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            states = look_up(ids)
            logits = decode(states.detach() if used == "decoder" else states, bias)
            if used == "decoder twice":
                logits = logits + decode(states * 2, bias)
        loss = states.sum() if used == "lookup" else (logits.float() * factors).sum()
        wanted = [words.weight] if used == "lookup" else [words.weight, bias]
        return [loss.detach(), *torch.autograd.grad(loss, wanted)]

    shared = SharedWords(words)
    found = compute(shared.look_up, shared.decode)
    expected = compute(words, lambda x, bias: nn.functional.linear(x, words.weight, bias))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2 * theirs.abs().max())


def test_no_masked_position_is_no_error(kept):
    model = randomise(build_empty(TINY)).train()
    nothing = torch.empty(0, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(padded_batch(TINY, 0)[0], positions=nothing)
    logits.sum().backward()
    assert logits.shape == (0, TINY.vocab_size)
    assert not model.encoder.embeddings.words.weight.grad.any()
