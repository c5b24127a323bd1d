"""The scripts of benchmarks/ still run: each does in process what its command does with `smoke`."""

import importlib
import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import onnxruntime
import pytest
from embeddings_layout import write_layout

from bort.benchmark.rows import BenchmarkRow
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.text.tokenizer import train_tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SHARED = {
    "parts.py",
    "arms.py",
    "steps.py",
    "glue.py",
    "scatter.py",
    "huggingface.py",
    "watched.py",
    "deadlines.py",
    "packing.py",
    "gpu_training.py",
    "gpu_speed.py",
    "gpu_report.py",
}  # what the scripts have in common


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script of benchmarks/ with these words, and returns what it printed."""
    monkeypatch.syspath_prepend(str(FOLDER))
    tables = {path: path.read_bytes() for path in (FOLDER / "results").iterdir()}

    def run(name: str, *words: str) -> str:
        path = FOLDER / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    yield run
    assert {path: path.read_bytes() for path in (FOLDER / "results").iterdir()} == tables


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A masked LM with segments, as BERT's, and as many positions as the tasks have tokens."""
    folder = tmp_path_factory.mktemp("encoder") / "model"
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=300, positions=128, type_vocab=2)
    save_model(
        build_model(sizes), train_tokenizer([f"{k} is {k**3}" for k in range(60)], 300), folder
    )
    return folder


def count_rows(out: str, header: str) -> int:
    """Return the number of rows of the last table with this header."""
    lines = out[out.rindex(header) :].splitlines()[2:]
    return next((k for k, line in enumerate(lines) if not line.startswith("|")), len(lines))


def test_every_script_is_tried_here():
    tried = {"recipe.py", "pretrain.py", "corpus.py", "search.py", "latency.py", "start.py"}
    tried |= {"gpu.py", "horizon.py"}
    of_tasks = {"finetune.py", "agora.py", "precision.py", "vocabulary.py", "blimp.py", "levers.py"}
    of_tasks |= {"claim.py", "taught.py", "family.py", "inheritance.py", "road.py", "windows.py"}
    of_tasks |= {"embeddings.py"}
    assert {path.name for path in FOLDER.glob("*.py")} == tried | of_tasks | SHARED


def test_recipe(script):
    out = script("recipe", "smoke", "kd", "weights", "mask", "recipe")
    assert count_rows(out, "| arm | lr |") == 4
    assert count_rows(out, "| w_kd | w_mlm |") == count_rows(out, "| mask rate in") == 2
    assert count_rows(out, "| change, cumulative") == 8


def test_recipe_by_steps_and_words(script):
    out = script("recipe", "smoke", "batch", "vocabulary")
    assert count_rows(out, "| batch | steps") == count_rows(out, "| vocabulary | tokens") == 2


def test_pretrain(script):
    out = script("pretrain", "smoke")
    assert count_rows(out, "| MLM step, 128") == count_rows(out, "| KD step") == 1
    assert count_rows(out, "| MLM step with Muon") == 2
    assert count_rows(out, "| data |") == 4
    assert "| share (to reach: 92%) | " in out
    assert count_rows(out, "| step | Hugging Face") == 2


def test_start(script):
    out = script("start", "smoke")
    assert count_rows(out, "| `train.py experiment") == 7 and "| imports |" in out
    assert "| torch |" in out and "| bort |" in out


def test_corpus(script):
    out = script("corpus", "smoke")
    assert count_rows(out, "| what | occurs in") == 8
    assert "| texts of the task's val set | the corpus | 10 of 10 |" in out


def test_search(script):
    out = script("search", "smoke", "kappa", "tiny", "latency")
    assert count_rows(out, "| H | lr") == count_rows(out, "| latency | T |") == 2
    assert count_rows(out, "| variant | optimum") == 13


def test_search_beside_a_miniature(script):
    out = script("search", "smoke", "miniature")
    assert count_rows(out, "| model | parameters | ms") == 2


def test_horizon(script):
    out = script("horizon", "smoke")
    assert count_rows(out, "| by | Kendall") == 5 and "3 shapes" in out


def test_search_by_steps(script):
    assert count_rows(script("search", "smoke", "horizon"), "| n | Kendall") == 2


def test_latency(script):
    out = script("latency", "smoke")
    assert count_rows(out, "| Bort int8 against") == 8
    assert count_rows(out, "| encoder | tokens |") == 2 * 4 + 2 * 2  # the second: at batch 8
    assert count_rows(out, "| encoder | ⟨D,A,H,I⟩") == 11 + 2 * 3 + 4
    assert f"ONNX Runtime {onnxruntime.__version__};" in out


def test_finetune(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    words = ["smoke", f"encoder={model}", f"model={model}"]
    out = script("finetune", *words, "parity", "speed", "pretraining")
    assert count_rows(out, "| task; examples/s") == 1
    table = out[out.rindex("| task | first loss") :].splitlines()[2:4]
    assert all(float(line.split(" | ")[3]) < 1e-4 for line in table), table
    assert count_rows(out, "| task | training rows") == 1


def test_scores_of_finetune(script, model, shared, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("finetune", "smoke", f"encoder={model}", "scores")
    assert count_rows(out, "| task | rows × epochs") == 2
    assert "| random weights by seed |" in out


def test_precision(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("precision", "smoke", f"encoder={model}")
    scores = "| score | precision | by seed | mean ± standard deviation |"
    assert out.count(scores) == 2 and count_rows(out, scores) == 3
    assert "| masked words, share | bf16 |" in out and "| glue/sst2, accuracy | float32 |" in out
    assert "| glue/sst2, accuracy | float32, random weights |" in out


def test_gpu(script, shared):
    out = script("gpu", "smoke", f"data={shared / 'data'}")
    assert count_rows(out, "| pre-training |") == 8
    assert count_rows(out, "| task | metric | pre-trained, by seed") == 7
    (row,) = (line for line in out.splitlines() if line.startswith("| glue/sst2 | accuracy"))
    assert row.count("–") == 1, row  # that of the range which is expected
    assert count_rows(out, "| BLiMP, points") == 2 and count_rows(out, "| model | tokens") == 1
    assert "failed" not in out and "no GPU: a rehearsal" in out


@pytest.mark.parametrize(
    "words, line",
    [
        ("run work=x out=x", "in= is missing; it names a folder"),
        ("run work=x in=tests", "out= is missing; it names a folder"),
        ("run in=tests out=x", "in=.*tests is no pack; make one by `gpu.py pack`"),
        ("run in=tests out=x budget=fast", "budget=fast must be a duration, as in 15m, "),
        ("run sst2", "sst2 is none of pack, run, eager, "),
        ("pack data=tests out=x", "tests/text/imdb.jsonl.xz is not there; data= must name a "),
        ("", "give pack, run or smoke first"),
    ],
)
def test_wrong_words_of_gpu(script, words, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^benchmarks/gpu.py: .*{line}"):
        script("gpu", *words.split())
    assert not list(tmp_path.iterdir())


def test_levers(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("levers", "smoke", f"encoder={model}")
    assert count_rows(out, "| arm | steps |") == 4


def test_claim(script, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("claim", "smoke")
    assert count_rows(out, "| learns | steps |") == 3
    assert "The teacher, ⟨1,2,16,32⟩, took " in out
    assert out.count("| the teacher's probabilities | 2 | 32-true | 0.") == 2  # while it runs, too


def test_inheritance(script):
    out = script("inheritance", "smoke")
    assert count_rows(out, "| teacher's width | it gives | start |") == 2  # with and without a head


def test_road(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("road", "smoke", "sentences", f"encoder={model}")
    assert count_rows(out, "| what answers | accuracy") == 2 + 1 + 2  # simple answers, S, students
    assert "There are 36 training rows, 40 test rows and 20 texts without labels." in out


def test_taught(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("taught", "smoke", "sst2", f"encoder={model}")
    assert count_rows(out, "| the student learns | steps |") == 6  # three, two baselines and S
    assert "| S's answers to these rows | 2 |" in out and "| nothing: TF-IDF" in out
    out = script("taught", "smoke", "agora", f"encoder={model}")
    assert count_rows(out, "| generator | plain, default") == 2


def test_embeddings(script, model, shared, monkeypatch, tmp_path):
    """The teacher is a folder of sentence-transformers; all of its students are timed in int8."""
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    shutil.copytree(model, tmp_path / "s")
    write_layout(tmp_path / "s", mean_tokens=True)
    out = script("embeddings", "smoke", f"encoder={tmp_path / 's'}")
    rows = [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")]
    assert {"| teacher", "| TF-IDF, cosine", "| teacher, int8", "| ⟨1,2,16,32⟩, int8"} <= set(rows)
    assert {"| ⟨1,2,16,32⟩, no labels", "| ⟨1,2,16,32⟩, then STS-B's pairs"} <= set(rows)


def test_family(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("family", "smoke", f"encoder={model}")
    assert count_rows(out, "| student | task | 0.032 / H |") == 1
    assert count_rows(out, "| task | first token | mean state | two towers |") == 1
    assert count_rows(out, "| model | sst2") == 1 + 1 + 1 + 2  # student, teacher, TF-IDF, BERTs
    assert count_rows(out, "| model | parameters | int8, MB |") == 1 + 1 + 1


def test_a_step_is_timed_by_its_quick_ones(monkeypatch, tmp_path):
    """The processor's seconds of 19 steps are kept, and the second shortest of them is the time."""
    monkeypatch.syspath_prepend(str(FOLDER))
    arms, parts = importlib.import_module("arms"), importlib.import_module("parts")
    bench = parts.Bench(tmp_path, smoke=True)

    def compose(arm: str, seed: int, steps: int):
        words = ("experiment=mlm_pretrain", "resume=false", f"seed={seed}")
        run = bench.compose_pretraining(*words)
        return replace(run, trainer=run.trainer | {"max_steps": steps})

    seconds = arms.time_step(bench, compose, "words")
    every = json.loads((tmp_path / "trial" / "seconds.json").read_text())
    assert len(every) == arms.TRIAL_STEPS - 1 and 0 < min(every) <= seconds == sorted(every)[1]


def test_a_picture_has_all_points_inside(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    scatter = importlib.import_module("scatter")
    points = [scatter.Point("small & fast", "int8", 0.5, 77.1), scatter.Point("b", "T", 50, 91.4)]
    root = ElementTree.fromstring(scatter.draw_scatter(points, "t", "ms", "%", "dark"))
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"small & fast", "b", "int8", "T", "1", "10", "80"} <= set(words)
    places = [node.attrib for node in root.iter("{http://www.w3.org/2000/svg}circle")][2:]
    (left, low), (right, high) = ((float(p["cx"]), float(p["cy"])) for p in places)
    assert scatter.LEFT < left < right < scatter.WIDTH - scatter.RIGHT
    assert scatter.HEIGHT - scatter.BOTTOM > low > high > scatter.TOP


def test_windows(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("windows", "smoke", f"model={model}")
    assert count_rows(out, "| reviews are | accuracy |") == 3


def test_vocabulary(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("vocabulary", "smoke", f"encoder={model}")
    assert count_rows(out, "| vocabulary | tokens a word") == 2
    assert count_rows(out, "| encoder | V = 300, ms | V = 280, ms |") == 1


def test_blimp(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("blimp", "smoke")
    assert count_rows(out, "| model | pairs | equal scores | all | morphology |") == 1
    assert count_rows(out, "| set | field |") == 67 and "| 134 | " in out
    out = script("blimp", "smoke", "fields", f"model={model},{model}", "share=0.004")
    assert count_rows(out, "| model | pairs |") == 1 and "| 268 | " in out
    with pytest.raises(SystemExit, match="^benchmarks/blimp.py: absent is not there; give data="):
        script("blimp", "data=absent")


def test_agora(script, model, shared, monkeypatch):
    monkeypatch.setenv("BORT_DATA", str(shared / "data"))
    out = script("agora", "smoke", f"encoder={model}", f"model={model}", "tasks")
    assert count_rows(out, "| task | metric | S on dev") == 1


@pytest.mark.parametrize(
    "name",
    [
        "recipe",
        "pretrain",
        "search",
        "latency",
        "finetune",
        "precision",
        "vocabulary",
        "blimp",
        "claim",
    ],
)
def test_a_wrong_word(script, name):
    with pytest.raises(SystemExit, match=f"^benchmarks/{name}.py: nonsense is none of "):
        script(name, "nonsense")


ENGINES = ["measured", "onnx", "onnx_int8"]


ROW = BenchmarkRow(
    **dict(name="x", measures="encoder", engine="onnx_int8", batch=1, length=128, threads=1),
    **dict(parameters=4369152, disk_bytes=17476608, median_ms=10.24, low_ms=8.23, high_ms=12.26),
    **dict(sequences_per_s=97.6, ratio=1.0, arch=Arch(2, 2, 32, 64), vocabulary=30522),
)


def test_the_parts_of_a_ratio(monkeypatch):
    """benchmarks/latency.py: shape × engine × int8 is the whole."""
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / "latency.py"))
    times = {"BERT-large": (440, 430, 350, 180), "BERT-base": (110, 100, 90, 50)}
    times["Bort"] = (None, 28, 21, 14)
    engines = ["huggingface", *ENGINES]
    rows = [
        replace(ROW, name=name, engine=engine, median_ms=ms)
        for name, values in times.items()
        for engine, ms in zip(engines, values, strict=True)
        if ms
    ]
    lines = script["split_ratios"](rows, script["SHAPES"])
    # 430 / 14 = 30.7 = 430 / 28 × 28 / 21 × 21 / 14
    assert "| BERT-large, PyTorch | 30.7 | 46 | 15.36 | 1.33 | 1.50 |" in lines
    assert "| BERT-base, PyTorch | 7.1 | 13 | 3.57 | 1.33 | 1.50 |" in lines
    assert "| BERT-large, ONNX int8 | 12.9 | – | – | – | – |" in lines
