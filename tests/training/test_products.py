"""The speed of products: sizes, what is timed, and what the cache keeps."""

import json

import pytest
import torch

from bort.training import products
from bort.training.products import ProductSize, ProductSpeed, make_step, measure_speeds, read_speeds

SIZES = [ProductSize(32, 16, 16), ProductSize(32, 16, 64)]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BORT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def fake_clock(monkeypatch):
    """Sizes that are measured are noted, and bf16 is twice as fast."""
    measured = []

    def measure(size: ProductSize, seconds: float) -> ProductSpeed:
        measured.append(size)
        return ProductSpeed(100.0, 200.0)

    monkeypatch.setattr(products, "measure_speed", measure)
    return measured


def test_a_size_shrinks_on_its_longest_side_and_reads_itself():
    large = ProductSize(4096, 256, 50265)
    small = large.shrink()
    assert small.rows * small.inputs * small.outputs <= products.LARGEST < 8 * small.flops
    assert small.inputs == 256 and ProductSize(64, 16, 16).shrink() == ProductSize(64, 16, 16)
    assert ProductSize.parse(str(large)) == large and large.flops == 2 * 4096 * 256 * 50265
    for wrong in ("1x2", "axbxc"):
        with pytest.raises((TypeError, ValueError)):
            ProductSize.parse(wrong)


def test_both_precisions_compute_the_same_products():
    """The casts back are part of the step: what is added to float32 numbers is float32."""
    exact = make_step(ProductSize(24, 8, 16), torch.float32)()
    mixed = make_step(ProductSize(24, 8, 16), torch.bfloat16)()
    assert [tuple(part.shape) for part in exact] == [(24, 16), (24, 8), (16, 8)]
    assert mixed[0].dtype == torch.bfloat16
    assert {part.dtype for part in mixed[1:]} == {torch.float32}
    for left, right in zip(exact, mixed, strict=True):
        assert torch.allclose(left, right.float(), rtol=0.05, atol=0.3)


def test_speeds_are_measured_once_and_draw_no_random_numbers(empty_cache, monkeypatch):
    state = torch.random.get_rng_state()
    speeds = measure_speeds(SIZES)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(speeds[size].float32 > 0 and speeds[size].bf16 > 0 for size in SIZES)
    monkeypatch.setattr(products, "measure_speed", lambda *_: pytest.fail("measured again"))
    assert measure_speeds(SIZES) == speeds == read_speeds()
    machine = json.loads(products.locate_speeds().read_text())["machine"]
    assert machine["torch"] == torch.__version__ and machine["threads"] == torch.get_num_threads()


def test_what_decides_the_speed_has_speeds_of_its_own(fake_clock, monkeypatch):
    measure_speeds(SIZES)
    count = len(fake_clock)
    measure_speeds([*SIZES, ProductSize(8, 8, 8)])
    assert fake_clock[count:] == [products.SMALL, ProductSize(8, 8, 8)]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    measure_speeds(SIZES)
    assert fake_clock[-2:] == SIZES


@pytest.mark.parametrize(
    "content", ["", "[]", '{"speeds": 3}', '{"speeds": {"1x2": {}}}']
    + ['{"speeds": {"8x8x8": {"float32": 0.0, "bf16": 1.0}}}', '{"speeds": {"8x8x8": {"a": 1}}}'],
)  # fmt: skip
def test_a_damaged_file_is_measured_again(fake_clock, content):
    measure_speeds(SIZES)
    products.locate_speeds().write_text(content)
    assert read_speeds() == {}
    assert measure_speeds(SIZES)[SIZES[0]].factor == 2
    assert SIZES[0] in read_speeds()


def test_a_cache_that_cannot_be_written_is_no_mistake(fake_clock, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "file" / "cache"))
    assert measure_speeds(SIZES)[SIZES[1]].factor == 2


def test_emulated_bf16_is_timed_at_a_small_size_only(monkeypatch):
    measured = []

    def measure(size: ProductSize, seconds: float) -> ProductSpeed:
        measured.append(size)
        return ProductSpeed(100.0, 2.0)

    monkeypatch.setattr(products, "measure_speed", measure)
    speeds = measure_speeds(SIZES)
    assert measured == [products.SMALL] and speeds[SIZES[0]].factor == 0.02
