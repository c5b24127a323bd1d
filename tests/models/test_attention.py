"""Attention in bfloat16 against float64 by hand: values, gradients, masks, dropout; the kernel."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bort.models import attention
from bort.models.attention import attend, drop_states
from bort.models.bert import ModelConfig
from bort.models.initialization import build_model

SHAPES = [(8, 64, 2, 32), (3, 77, 3, 7), (1, 150, 1, 8), (2, 128, 4, 64), (33, 23, 1, 5)]


def draw_inputs(
    shape: tuple[int, ...], spread: float = 1.0, padded: bool = False
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Query, key and value in bfloat16, a gradient of the result, and a mask of uneven rows."""
    generator = torch.Generator().manual_seed(sum(shape))
    query, key, value, gradient = torch.randn(4, *shape, generator=generator)
    mask = None
    if padded:
        lengths = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=generator)
        mask = (torch.arange(shape[1]) < lengths)[:, None, None, :]
    inputs = [(spread * query).bfloat16(), (spread * key).bfloat16(), value.bfloat16()]
    return inputs, gradient.bfloat16(), mask


def differentiate(function, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """The result of a function and the gradients of its inputs, in float64."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    result.backward(gradient.to(result.dtype))
    return [result.detach().double(), *(x.grad.double() for x in leaves)]


def compute_exactly(inputs, gradient, mask=None, multipliers=None) -> list[Tensor]:
    """What `attend` should give, by the definition in float64."""

    def define(query, key, value):
        scores = torch.einsum("bsak,btak->bast", query, key) / query.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        if multipliers is not None:
            weights = weights * multipliers
        return torch.einsum("bast,btak->bsak", weights, value)

    return differentiate(define, [x.double() for x in inputs], gradient)


def measure_errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Distance over length of the value, query's, key's and value's gradient."""
    pairs = zip(found, expected, strict=True)
    return [((x - y).norm() / y.norm()).item() for x, y in pairs]


@pytest.fixture
def torch_calls(monkeypatch) -> list:
    """The calls of torch's own attention."""
    calls, function = [], F.scaled_dot_product_attention

    def record(*args, **kwargs):
        calls.append(kwargs["dropout_p"])
        return function(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    return calls


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, padded, torch_calls):
    inputs, gradient, mask = draw_inputs(shape, padded=padded)
    found = differentiate(lambda *x: attend(*x, mask), inputs, gradient)
    assert not torch_calls
    expected = compute_exactly(inputs, gradient, mask)
    assert max(measure_errors(found, expected)) < 0.01  # bfloat16 has 2^-9 = 0.002


def test_sharp_attention_is_as_exact_as_torchs():
    """Scores of a deviation of 9: rounded to bfloat16, they would be wrong by 2%."""
    inputs, gradient, mask = draw_inputs((4, 128, 2, 64), spread=3, padded=True)
    expected = compute_exactly(inputs, gradient, mask)
    found = differentiate(lambda *x: attend(*x, mask), inputs, gradient)

    def attend_by_torch(*x):
        heads_first = (y.transpose(1, 2) for y in x)
        return F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)

    theirs = differentiate(attend_by_torch, inputs, gradient)
    for ours, limit in zip(
        measure_errors(found, expected), measure_errors(theirs, expected), strict=True
    ):
        assert ours < 1.2 * limit < 0.01


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_blocks_change_no_bit(dropout, monkeypatch):
    inputs, gradient, mask = draw_inputs((5, 64, 4, 16), padded=True)

    def compute():
        torch.manual_seed(0)
        return differentiate(lambda *x: attend(*x, mask, dropout), inputs, gradient)

    expected = compute()
    monkeypatch.setattr(attention, "BLOCK_HEADS", 1)
    for heads in (1, 3, 8, 100):  # parts of a sample, of uneven size, two samples, all
        monkeypatch.setattr(attention, "BLOCK_BYTES", heads * 64 * 64 * 2)
        for found, before in zip(compute(), expected, strict=True):
            assert torch.equal(found, before)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_masked_keys_change_nothing(dropout):
    inputs, gradient, mask = draw_inputs((4, 96, 2, 16), padded=True)
    hidden = ~mask.view(4, 96, 1, 1)

    def compute(inputs):
        torch.manual_seed(0)
        return differentiate(lambda *x: attend(*x, mask, dropout), inputs, gradient)

    expected = compute(inputs)
    changed = [inputs[0], *(x.masked_fill(hidden, 50.0) for x in inputs[1:])]
    for found, before in zip(compute(changed), expected, strict=True):
        assert torch.equal(found, before)
    for unused in expected[2:]:
        assert not (unused * hidden).any()


@pytest.mark.parametrize("padded", [False, True])
def test_inference_gives_the_values_of_training(padded):
    inputs, gradient, mask = draw_inputs((4, 96, 2, 16), padded=padded)
    trained = differentiate(lambda *x: attend(*x, mask), inputs, gradient)[0]
    with torch.no_grad():
        assert torch.equal(attend(*inputs, mask).double(), trained)


@pytest.mark.parametrize("padded", [False, True])
def test_dropout(padded, torch_calls):
    """An identity as value shows the weights that are left; the reference drops the same."""
    share, size = 0.3, 64
    inputs, gradient, mask = draw_inputs((8, size, 4, size), padded=padded)
    identity = torch.eye(size).bfloat16()[None, :, None, :].expand(inputs[0].shape)

    def drop(*x):
        torch.manual_seed(7)
        return attend(*x, mask, share)

    shown = differentiate(drop, [*inputs[:2], identity], gradient)[0].transpose(1, 2)
    kept = shown != 0  # (B, A, S, S)
    real = torch.ones_like(kept) if mask is None else mask.expand_as(kept)
    count = real.sum().item()
    dropped = 1 - kept.sum().item() / count
    assert abs(dropped - share) < 5 * (share * (1 - share) / count) ** 0.5
    assert torch.equal(kept & ~real, torch.zeros_like(kept))
    found = differentiate(drop, inputs, gradient)
    expected = compute_exactly(inputs, gradient, mask, kept / (1 - share))
    assert max(measure_errors(found, expected)) < 0.01
    torch.manual_seed(8)
    assert not torch.equal(attend(*(x.requires_grad_() for x in inputs), mask, share), found[0])
    assert not torch_calls


def test_draws_of_dropout_are_independent():
    """Neighbours in a row, in a column and in two calls agree as often as chance has it."""
    inputs, _, _ = draw_inputs((8, 64, 4, 64))
    identity = torch.eye(64).bfloat16()[None, :, None, :].expand(inputs[0].shape)
    torch.manual_seed(0)
    calls = [attend(inputs[0].requires_grad_(), inputs[1], identity, None, 0.5) for _ in range(2)]
    kept = [(call != 0).double() - 0.5 for call in calls]
    for other in (kept[1], kept[0].roll(1, 3), kept[0].roll(1, 1), kept[0].roll(4, 3)):
        agreement = 4 * (kept[0] * other).mean().item()
        assert abs(agreement) < 5 / kept[0].numel() ** 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_not_finite_stays_so(dropout):
    inputs, gradient, _ = draw_inputs((8, 64, 2, 32))
    inputs[0][0, 0, 0, 0] = torch.nan
    found = differentiate(lambda *x: attend(*x, None, dropout), inputs, gradient)
    assert not any(x.isfinite().all() for x in found)


def of_inputs(shape=(8, 64, 2, 32), dtype=torch.bfloat16, gradient=True):
    inputs, _, _ = draw_inputs(shape)
    return [x.to(dtype).requires_grad_(gradient) for x in inputs]


@pytest.mark.parametrize(
    "inputs, dropout",
    [
        (of_inputs(dtype=torch.float32), 0.0),
        (of_inputs(dtype=torch.float32), 0.1),
        (of_inputs(dtype=torch.float64), 0.0),
        (of_inputs(gradient=False), 0.0),
        (of_inputs((2, 16, 2, 8)), 0.0),  # so few numbers that nothing is saved
        (of_inputs((1, 2049, 1, 4)), 0.0),  # scores that leave the cache
        (of_inputs((3, 1, 2, 4)), 0.0),
    ],
)
def test_torchs_own_where_it_is_as_fast(inputs, dropout, torch_calls):
    assert attend(*inputs, None, dropout).shape == inputs[0].shape
    assert torch_calls == [dropout]


def test_a_compiled_graph_is_whole(torch_calls):
    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    inputs, gradient, mask = draw_inputs((8, 64, 2, 32), padded=True)
    found = differentiate(lambda *x: compiled(*x, mask), inputs, gradient)
    expected = differentiate(lambda *x: attend(*x, mask), inputs, gradient)
    assert torch.equal(found[0], expected[0])
    assert max(measure_errors(found, expected)) < 0.01


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_model_under_autocast(dropout, torch_calls):
    """Gradients under autocast point where those of float32 do; the same seed gives the same."""
    config = ModelConfig(2, 2, 64, 64, vocab_size=50, attention_dropout=dropout)
    model = build_model(config, "paper", seed=0)
    ids = torch.randint(5, 50, (8, 64), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 40:] = 0

    def compute(enabled: bool) -> Tensor:
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model.train()(ids, mask)
        F.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    found = compute(True)
    assert not torch_calls
    assert torch.equal(found, compute(True))
    expected = compute(False)
    assert torch_calls == [dropout] * 2
    assert F.cosine_similarity(found, expected, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropped_states(dtype, dropout):
    """The share and the factor are right, the gradient has the same zeros, and a seed repeats."""
    x = torch.full((40, 50, 101), 2.0, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    dropped = drop_states(x, dropout, True)
    torch.manual_seed(0)
    assert torch.equal(dropped, drop_states(x, dropout, True))
    assert not torch.equal(dropped, drop_states(x, dropout, True))
    (gradient,) = torch.autograd.grad(dropped.float().sum(), x)
    kept = dropped != 0
    assert abs((~kept).float().mean().item() - dropout) < 0.005
    assert abs(kept[..., 1:].float().mul(kept[..., :-1]).mean() - (1 - dropout) ** 2) < 0.01
    assert torch.equal(gradient != 0, kept)
    for values, factor in ((dropped, 2.0), (gradient, 1.0)):
        right = torch.full_like(values[kept], factor / (1 - dropout))
        torch.testing.assert_close(values[kept], right, rtol=1e-2, atol=0)
    assert x.eq(2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_outside_of_training_are_whole(dtype):
    x = torch.randn(3, 4, 5, dtype=dtype)
    assert torch.equal(drop_states(x, 0.5, False), x) and torch.equal(drop_states(x, 0.0, True), x)


def test_float32_states_are_dropped_by_torch():
    x = torch.randn(3, 4, 50)
    torch.manual_seed(0)
    found = drop_states(x, 0.1, True)
    torch.manual_seed(0)
    assert torch.equal(found, torch.nn.functional.dropout(x, 0.1, True))
