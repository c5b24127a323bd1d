"""One record of latencies, whatever their source; timed ones are in the tests of the sweep."""

import json

import onnxruntime
import pytest
import torch

from bort.config.search import LatencyConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.onnx_graph import GRAPH
from bort.objectives.latency import Latencies, check_device, measure_latencies
from bort.objectives.parameters import count_encoder_operations

SMALL, LARGE = Arch(1, 1, 8, 16), Arch(2, 2, 16, 32)


def test_counted_operations_have_no_interval(tmp_path):
    config = LatencyConfig(source="analytic", batch=2, length=16)
    latencies = measure_latencies(config, [SMALL, LARGE], None, 50, tmp_path)
    assert latencies.unit == "operations" and latencies.note == "batch 2 × 16 tokens"
    assert latencies.points == {a: [count_encoder_operations(a, 2, 16)] * 3 for a in (SMALL, LARGE)}


def test_the_latency_of_several_lengths_is_their_mean_by_weight(tmp_path):
    config = LatencyConfig(source="analytic", lengths=[8, 32], weights=[3, 1])
    latencies = measure_latencies(config, [SMALL, LARGE], None, 50, tmp_path)
    for arch in (SMALL, LARGE):
        short, long = (count_encoder_operations(arch, 1, length) for length in (8, 32))
        assert latencies.points[arch] == pytest.approx([0.75 * short + 0.25 * long] * 3)
    assert latencies.note == "75% of (batch 1 × 8 tokens) + 25% of (batch 1 × 32 tokens)"
    assert LatencyConfig(lengths=[8, 32]).length_shares == {8: 0.5, 32: 0.5}


def test_every_length_is_timed(tmp_path):
    config = LatencyConfig(source="measured", lengths=[4, 512], rounds=1, threads=1)
    short, long, mean = (
        measure_latencies(one, [LARGE], None, 50, tmp_path).points[LARGE][0]
        for one in (
            LatencyConfig(source="measured", length=4, rounds=1, threads=1),
            LatencyConfig(source="measured", length=512, rounds=1, threads=1),
            config,
        )
    )
    assert short < mean < long


def test_a_table_is_read_in_milliseconds(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("depth,heads,hidden,intermediate,latency_ms\n1,1,8,16,2.5\n2,2,16,32,7\n")
    config = LatencyConfig(source="table", path=str(path))
    latencies = measure_latencies(config, [SMALL, LARGE], None, 50, tmp_path)
    assert latencies == Latencies("ms", str(path), {SMALL: [2.5] * 3, LARGE: [7.0] * 3})


def test_shapes_are_timed_with_as_many_threads_as_asked_for(tmp_path):
    threads = torch.get_num_threads()
    config = LatencyConfig(source="measured", batch=1, length=8, rounds=1, threads=1)
    latencies = measure_latencies(config, [SMALL], None, 50, tmp_path)
    assert latencies.note == "measured, batch 1 × 8 tokens, 1 thread"
    assert 0 < latencies.points[SMALL][1] <= latencies.points[SMALL][2]
    assert torch.get_num_threads() == threads and not list(tmp_path.iterdir())


def test_latencies_of_onnx_say_of_which_graph_they_are(tmp_path):
    config = LatencyConfig(source="onnx", batch=1, length=8, rounds=1, threads=1)
    latencies = measure_latencies(config, [SMALL], None, 50, tmp_path)
    version = f"graph {GRAPH}, ONNX Runtime {onnxruntime.__version__}"
    assert latencies.note == f"onnx, batch 1 × 8 tokens, 1 thread, {version}"
    assert not list(tmp_path.iterdir())


def test_a_record_survives_its_file():
    latencies = Latencies("ms", "a note", {SMALL: [2.0, 1.0, 3.0], LARGE: [5.0, 4.0, 6.0]})
    content = json.loads(json.dumps(latencies.to_json()))
    assert content["points"] == {"⟨1,1,8,16⟩": [2.0, 1.0, 3.0], "⟨2,2,16,32⟩": [5.0, 4.0, 6.0]}
    assert list(content) == ["unit", "note", "points"] and Latencies.from_json(content) == latencies


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here():
    with pytest.raises(BortError, match="latency.device=cuda: torch finds no GPU here"):
        check_device(LatencyConfig(device="cuda"))
