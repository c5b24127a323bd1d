"""Settings of a search: its grid, its latency, its aim."""

from dataclasses import replace

import pytest
from composed_settings import composed

from bort.config.arch import GridConfig
from bort.config.search import (
    SOURCES,
    LatencyConfig,
    SearchConfig,
    SearchRunConfig,
)
from bort.errors import BortError
from bort.models.arch import Arch

MESSAGES = [
    (lambda: LatencyConfig(source="clock"), "latency=clock is unknown; use " + ", ".join(SOURCES)),
    (
        lambda: LatencyConfig(engine="onyx"),
        "latency.engine=onyx is unknown; use measured, onnx, onnx_int8; did you mean 'onnx'?",
    ),
    (lambda: LatencyConfig(length=3), "latency.length=3 must be at least 4"),
    (lambda: LatencyConfig(lengths=[32, 3]), "latency.lengths=3 must be at least 4"),
    (
        lambda: LatencyConfig(lengths=[32, 32]),
        "latency.lengths=[32, 32] must be one or more different lengths",
    ),
    (lambda: LatencyConfig(lengths=[]), "latency.lengths=[] must be one or more different lengths"),
    (
        lambda: LatencyConfig(weights=[1.0]),
        "latency.weights are of latency.lengths; give both, or neither",
    ),
    (
        lambda: LatencyConfig(lengths=[32, 64], weights=[1.0]),
        "latency.weights=[1.0] must be one number for each of latency.lengths=[32, 64]",
    ),
    (
        lambda: LatencyConfig(lengths=[32, 64], weights=[1.0, 0.0]),
        "latency.weights=[1.0, 0.0] must all be above 0",
    ),
    (lambda: LatencyConfig(shapes=5), "latency.shapes=5 must be at least 6"),
    (lambda: LatencyConfig(threads=0), "latency.threads=0 must be at least 1"),
    (lambda: LatencyConfig(rounds=0), "latency.rounds=0 must be at least 1"),
    (
        lambda: LatencyConfig(device="tpu"),
        "latency.device=tpu is unknown; use cpu, cuda; did you mean 'cpu'?",
    ),
    (
        lambda: LatencyConfig(source="table"),
        "latency=table needs latency.path=FILE, which bort.benchmark writes",
    ),
    (
        lambda: composed("init=teacher", "init_layers=[0]", of=SearchRunConfig),
        "init_layers=[0] cannot be used in a search, whose candidates have different depths; null "
        "spreads the teacher's layers evenly, and [] copies none",
    ),
    (lambda: SearchConfig(n=3), "search.n=3 must be at least 4: its quarters are compared"),
    (lambda: SearchConfig(epsilon=0), "search.epsilon=0 must be at least 1"),
    (
        lambda: SearchConfig(assume="mono"),
        "search.assume=mono is unknown; use none, monotone; did you mean 'monotone'?",
    ),
    (
        lambda: SearchConfig(n=7, halving=True),
        "search.halving trains to n/8 first; search.n=7 must be at least 8",
    ),
    (
        lambda: SearchConfig(epsilon=2, halving=True),
        "search.epsilon=2: search.halving begins with every candidate; use search.epsilon=1",
    ),
    (
        lambda: SearchConfig(assume="monotone", halving=True),
        "search.assume=monotone and search.halving leave out candidates under assumptions of their "
        "own; use one of them",
    ),
    (
        lambda: composed("search.halving=true", "optim.warmup=0.2", of=SearchRunConfig),
        "search.halving stops after 37 of 300 steps first, before the rate of optim.warmup=0.2 is "
        "at its peak; lower optim.warmup or optim.decay",
    ),
    (lambda: SearchConfig(objective="W"), "search.objective=W is unknown; use w, error"),
    (lambda: SearchConfig(error="kl"), "search.error=kl is unknown; use ratio, perplexity"),
    (
        lambda: SearchConfig(exponents=[1, 1]),
        "search.exponents=[1, 1] must be three numbers, at least 0, not all 0",
    ),
    (lambda: SearchConfig(max_params=0), "search.max_params=0 must be above 0"),
    (lambda: SearchConfig(max_mb=0), "search.max_mb=0 must be above 0"),
    (lambda: SearchConfig(max_mb=-1.5), "search.max_mb=-1.5 must be above 0"),
    (
        lambda: SearchConfig(max_latency_share=0),
        "search.max_latency_share=0 must be above 0 and at most 1",
    ),
    (
        lambda: SearchConfig(max_latency_share=1.01),
        "search.max_latency_share=1.01 must be above 0 and at most 1",
    ),
    (
        lambda: SearchConfig(max_latency_share=float("nan")),
        "search.max_latency_share=nan must be above 0 and at most 1",
    ),
    (
        lambda: composed("search.max_latency_ms=5", "latency=analytic", of=SearchRunConfig),
        "search.max_latency_ms needs milliseconds; use latency=measured (PyTorch), "
        "latency=onnx_int8 (as it is deployed) or search.max_latency_share",
    ),
    (lambda: SearchConfig(lrs=[0.0]), "search.lrs=[0.0] must be above 0"),
    (
        lambda: GridConfig([1], [], [1], None, [4]),
        "grid.hidden is empty; give it values or use grid=tiny",
    ),
    (
        lambda: GridConfig([1], [4], [1], 2, [4]),
        "grid.heads or grid.head_size needs values, and not both: set the other to null",
    ),
    (
        lambda: GridConfig([1], [4], [1], None, None, None),
        "grid.intermediate or grid.ratio needs values, and not both: set the other to null",
    ),
    (lambda: GridConfig([1], [4], [0], None, [4]), "grid: every size must be above 0"),
    (
        lambda: GridConfig([1], [4], [3], None, [4]),
        "grid: no number of heads divides any hidden size; fix grid.heads",
    ),
    (
        lambda: GridConfig([1], [4], [1], None, [4], None, [9, 9]),
        "grid.vocab_size=[9, 9] must be one or more different numbers",
    ),
    (
        lambda: GridConfig([1], [4], [1], None, [4], None, []),
        "grid.vocab_size=[] must be one or more different numbers",
    ),
    (
        lambda: GridConfig([1], [4], [1], None, [4], None, [9, 0]),
        "grid: every size must be above 0",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


def test_points_of_a_grid():
    """350 valid ones in the paper's; heads by size, intermediate by ratio; each point once."""
    valid, invalid = composed("grid=paper", of=SearchRunConfig).grid.points()
    assert (len(valid), len(invalid)) == (350, 70)
    assert Arch(4, 8, 1024, 768) in valid and Arch(4, 12, 1024, 768) in invalid
    valid, invalid = composed(of=SearchRunConfig).grid.points()
    assert (len(valid), len(invalid)) == (21, 0)
    assert {a.hidden // a.heads for a in valid} == {32} and Arch(2, 4, 128, 512) in valid
    valid, _ = GridConfig([1, 1], [8], [2], None, None, [1, 1.5]).points()
    assert valid == [Arch(1, 2, 8, 8), Arch(1, 2, 8, 12)]


def test_a_search_packs_its_text():
    with pytest.raises(BortError, match="search.py packs its text; data.packing=false is for pre-"):
        composed("data.packing=false", of=SearchRunConfig)


@pytest.mark.parametrize(
    ("words", "proxy", "losses", "init"),
    [
        ([], "words", (1.0, 0.0), None),
        (["teacher.name=x"], None, (None, None), None),
        (["teacher.name=x", "search.proxy=words"], "words", (1.0, 0.0), None),
        (["teacher.name=x", "search.proxy=states"], "states", (0.0, 1.0), None),
        (["search.proxy=states", "init=default"], "states", (0.0, 1.0), "default"),
    ],
)
def test_a_proxy_decides_what_candidates_learn_and_how_they_start(words, proxy, losses, init):
    """Without one a named teacher has yet to be opened; one that is trained here has a head."""
    run = composed(*words, of=SearchRunConfig)
    assert (run.search.proxy, run.init) == (proxy, init)
    assert (run.distill.w_kd, run.distill.w_hidden) == losses
    settled = [run.settle(has_head) for has_head in (True, False)]
    assert {run.init for run in settled} == {init or "teacher"}
    if proxy is None:
        assert [run.search.proxy for run in settled] == ["words", "states"]
        older = {"distill.w_kd": 1.0, "init": "default"}  # which has no proxy
        assert run.settle_as(older) == replace(settled[0], init="default")
        assert run.settle_as({"search.proxy": "states"}) == settled[1]
    else:
        assert settled[1] == replace(run, init=init or "teacher")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("search.proxy=word", "search.proxy=word is unknown"),
        ("search.proxy=states search.objective=w", "search.objective=w is for W, and search.p"),
        ("search.proxy=states search.error=perplexity", "search.error=perplexity is for W, and"),
        ("search.proxy=states search.exponents=[1,2,1]", "search.exponents=[1.0, 2.0, 1.0] is f"),
        ("search.proxy=states distill.w_kd=2", "distill.w_kd=2 is for search.proxy=words; sear"),
        ("search.proxy=states distill.temperature=2", "distill.temperature=2 is for search.pro"),
        ("search.proxy=states distill.w_relation=1", "search.py trains candidates on masked wor"),
        ("search.proxy=words distill.w_hidden=1", "search.py "),
    ],
)
def test_final_states_have_no_w(words, line):
    with pytest.raises(BortError) as error:
        composed(*words.split(), of=SearchRunConfig)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("words", "share"),
    [
        ([], 0.25),
        (["search.max_latency_share=0.5"], 0.5),
        (["search.max_params=1000"], None),
        (["search.max_mb=2"], None),
        (["latency=measured", "search.max_latency_ms=5"], None),
        (["search.objective=w"], None),
        (["search.objective=w", "search.max_latency_share=0.5"], 0.5),
    ],
)
def test_the_lowest_error_has_a_budget_by_default(words, share):
    search = composed(*words, of=SearchRunConfig).search
    assert search.latency_share == share
    assert search.objective == ("w" if "search.objective=w" in words else "error")
