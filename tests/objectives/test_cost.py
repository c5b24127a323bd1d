"""Closed forms against the module itself: counted parameters, and torch's own FLOP counter."""

import itertools
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import MaskedLM, ModelConfig, build_model
from bort.objectives import cost

FILES = sorted((Path(__file__).resolve().parents[2] / "conf" / "arch").glob("*.yaml"))
SHAPES = [Arch(1, 1, 8, 8), Arch(2, 4, 32, 48), Arch(3, 2, 16, 64), Arch(5, 8, 40, 24)]


def config(arch: Arch, vocab_size: int, positions: int) -> ModelConfig:
    return ModelConfig(**vars(arch), vocab_size=vocab_size, positions=positions)


def test_every_named_architecture_is_seen():
    assert len(FILES) == 18


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(("vocab_size", "positions"), [(8192, 512), (50265, 1024)])
def test_parameters_are_the_modules_own(path, vocab_size, positions):
    arch = Arch(**yaml.safe_load(path.read_text()))
    with torch.device("meta"):
        model = MaskedLM(config(arch, vocab_size, positions))
    assert cost.parameters(arch, vocab_size, positions) == sum(
        p.numel() for p in model.parameters()
    )


def test_bort_as_counted_in_the_literature():
    """76.2 M with RoBERTa's vocabulary, 56.0 M (the paper's figure) with BERT's."""
    bort = Arch(4, 8, 1024, 768)
    assert round(cost.parameters(bort, 50265, 512) / 1e6, 1) == 76.2
    assert round(cost.parameters(bort, 30522, 512) / 1e6, 1) == 56.0


def counted(
    arch: Arch, vocab_size: int, rows: int, length: int, masked: int, backward: bool
) -> int:
    """FLOPs of the module by torch, which sees attention only as plain matrix products."""
    model = build_model(config(arch, vocab_size, length), "paper")
    ids = torch.randint(5, vocab_size, (rows, length))
    positions = torch.arange(masked)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids, positions=positions)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("arch", SHAPES, ids=str)
@pytest.mark.parametrize(("rows", "length", "masked"), [(1, 16, 4), (3, 20, 12), (2, 8, 0)])
def test_forward_flops(arch, rows, length, masked):
    tokens = rows * length
    expected = cost.forward_flops(arch, 50, length, masked / tokens) * tokens
    assert counted(arch, 50, rows, length, masked, False) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("arch", SHAPES, ids=str)
def test_training_flops(arch):
    """Exactly three forward passes."""
    expected = cost.training_flops(arch, 50, 16, 0.25) * 32
    assert counted(arch, 50, 2, 16, 8, True) == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------------ latency


def test_encoder_operations_leave_the_vocabulary_out():
    arch = Arch(2, 2, 16, 32)
    ids = torch.randint(5, 50, (3, 10))
    encoder = build_model(config(arch, 50, 10), "paper").encoder
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(ids)
    assert cost.encoder_operations(arch, 3, 10) == counter.get_total_flops()


def test_interleaved_times_every_one_in_every_round():
    made, called = [], []

    def make(key, seconds):
        def build_it():
            made.append(key)
            return lambda: (called.append(key), time.sleep(seconds))

        return build_it

    ticks = []
    found = cost.interleaved(
        {"fast": make("fast", 0.001), "slow": make("slow", 0.01)},
        rounds=3,
        seconds=0.0,
        tick=lambda done, total: ticks.append((done, total)),
    )
    assert made == ["fast", "slow", "slow", "fast", "fast", "slow"]  # turned order
    assert called.count("slow") == 3 * 5  # two to warm up, three that count
    assert ticks[-1] == (6, 6)
    assert 1 <= found["fast"].low <= found["fast"].ms <= found["fast"].high < 10
    assert 10 <= found["slow"].ms < 40


def test_a_larger_encoder_is_slower():
    archs = [Arch(1, 1, 32, 32), Arch(4, 4, 256, 1024)]
    make = {a: lambda a=a: cost.encoder_call(a, 100, 1, 32) for a in archs}
    found = cost.interleaved(make, rounds=3, seconds=0.01)
    assert 2 * found[archs[0]].ms < found[archs[1]].ms


def test_fitted_latency_recovers_what_was_planted():
    """ms = D (2 H² + 3 H I + 5 H s + 7 D A s²) 1e-6 + 0.5, from 12 shapes."""
    rng = random.Random(0)

    def planted(a: Arch, s: int = 32) -> float:
        H = a.hidden
        inner = 2 * H * H + 3 * H * a.intermediate + 5 * H * s + 7 * a.heads * s * s
        return 1e-6 * a.depth * inner + 0.5

    def shape() -> Arch:
        heads = rng.choice([1, 2, 4, 8])
        return Arch(rng.randint(1, 12), heads, 64 * rng.randint(1, 8), rng.choice([64, 512, 2048]))

    archs = [shape() for _ in range(12)]
    function, error = cost.fit_latency({a: planted(a) for a in archs}, 32)
    assert error < 1e-6
    for arch in (shape() for _ in range(20)):
        assert function(arch) == pytest.approx(planted(arch), rel=1e-6)
    noisy = {a: planted(a) * rng.uniform(0.9, 1.1) for a in archs}
    assert 0.02 < cost.fit_latency(noisy, 32)[1] < 0.8


def test_the_interval_of_a_fit_covers_what_its_error_was_computed_from():
    """Every shape left out: its time within a factor of its prediction, by another solver."""
    from scipy.optimize import lsq_linear

    sizes = itertools.product((1, 2, 4), (1, 2), (32, 96), (64, 256))
    grid = [Arch(*shape) for shape in sizes]
    for seed in range(30):
        rng, times, rows = random.Random(seed), {}, []
        for arch in rng.sample(grid, 12):
            D, A, H, I = vars(arch).values()  # noqa: E741
            rows.append([D * H * H, D * H * I, D * H * 32, D * A * 32 * 32, 1.0])
            times[arch] = (1e-5 * sum(rows[-1][:3]) + 0.3) * rng.choice([0.4, 1.0, 1.0, 2.5])
        function, error = cost.fit_latency(times, 32)
        ms, matrix = np.array(list(times.values())), np.array(rows)
        relative = matrix / ms[:, None]
        worst = 1.0
        for k in range(len(ms)):
            rest = np.delete(relative, k, axis=0)
            scale = np.linalg.norm(rest, axis=0)
            fit = lsq_linear(rest / scale, np.ones(len(rest)), (0, np.inf), method="bvls")
            predicted = matrix[k] @ (fit.x / scale)
            assert predicted / (1 + error) <= ms[k] * (1 + 1e-6)
            assert ms[k] <= predicted * (1 + error) * (1 + 1e-6)
            worst = max(worst, predicted / ms[k], ms[k] / predicted)
        assert 1 + error == pytest.approx(worst, rel=1e-5)


def test_spread_out():
    archs = [Arch(d, 1, 8, 8) for d in range(1, 21)]
    random.Random(0).shuffle(archs)
    assert [a.depth for a in cost.spread_out(archs, 5, 16)] == [1, 6, 11, 15, 20]
    assert len(cost.spread_out(archs, 99, 16)) == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table.csv does not exist; python -m bort.benchmark writes one"),
        ("depth,heads,hidden\n1,1,8\n", "has no column intermediate"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,fast\n", "line 2: could not convert"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,0\n", "latency_ms=0 must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,nan\n", "ms=nan must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,-1\n", "ms=-1 must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,inf\n", "ms=inf must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,9,1\n", "lacks 1 of the points: ⟨1,1"),
        (
            "depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,0.103\n1,1,8,8,99\n",
            "line 3: ⟨1,1,8,8⟩ has 99 ms here and 0.103 ms further up; leave one of them out",
        ),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "table.csv is no CSV"),
        (b"depth,heads\0\n", "table.csv (is no CSV|has no column)"),
        ("", "has no column depth"),
    ],
)
def test_wrong_tables(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BortError, match=message):
        cost.read_table(path, [Arch(1, 1, 8, 8)])
