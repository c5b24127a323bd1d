"""No setting that a user gives is ignored in silence: every key against every job."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bort.benchmark.settings import BenchmarkConfig
from bort.config import search as search_config
from bort.config.compose import parse_settings
from bort.config.search import LatencyConfig
from bort.config.train import TrainConfig
from bort.config.unused import (
    BENCHMARK_RULES,
    LATENCY_RULES,
    RULES,
    refuse_distillation,
    refuse_unused,
)
from bort.errors import BortError

ROOT = Path(__file__).resolve().parents[2]
search_config.register(BenchmarkConfig)

JOBS = {  # of each job the overrides that choose it
    "kd": [],
    "mlm": ["experiment=mlm_pretrain"],
    "compare": ["experiment=kd_vs_mlm"],
    "named teacher": ["teacher.name=x"],
    "own text": ["data=text", "data.path=x"],
    "paper": ["experiment=paper", "data.path=x"],
    "docstrings": ["experiment=finetune"],
    "suite": ["experiment=finetune", "task=glue/rte", "model=x"],
    "custom": ["experiment=finetune", "data.train=x", "model=x"],
    "taught": [
        *("experiment=kd_finetune", "task=glue/rte", "model=x", "teacher.name=x"),
        "data.unlabelled=x",
    ],
    "embed": ["experiment=kd_embed", "teacher.name=x", "data.unlabelled=x"],
    "pairs": [
        *("experiment=finetune", "task=embed", "model=x", "data.train=x", "data.text=[a,b]"),
    ],
    "agora": ["experiment=agora"],
    "search": [],
}
PRETRAINING = {"kd", "mlm", "compare", "named teacher", "own text", "paper", "search"}
TASKS = {"docstrings", "suite", "custom", "taught", "agora"}
EMBEDDING = {"embed", "pairs"}
OWN_TEACHER = {"kd", "compare", "own text", "agora", "search"}  # one is trained here first
# Jobs that read a key, written down by hand from what the jobs do; of all others, all jobs do.
READERS = {
    "agora": {"agora"},
    "compare": {"compare"},
    "task": TASKS | EMBEDDING,
    "model": PRETRAINING - {"compare", "search"} | TASKS | EMBEDDING,
    "head": TASKS,
    "patience": TASKS | {"pairs"},
    "arch": PRETRAINING | {"docstrings", "agora", "embed"},
    "arch_file": PRETRAINING | {"docstrings", "agora", "embed"},
    "init": PRETRAINING | {"docstrings", "agora", "embed"},
    "compile": PRETRAINING,
    "distill": PRETRAINING,
    "distill.w_kd": PRETRAINING | {"taught", "embed"},
    "distill.w_ce": {"taught"},
    "distill.kd_loss": {"taught"},
    "distill.guard": {"taught"},
    "distill.control": {"taught"},
    "distill.temperature": PRETRAINING - {"mlm"},  # of taught: with kd_loss=kl
    "distill.w_hidden": PRETRAINING - {"compare", "search"},
    "distill.w_relation": PRETRAINING - {"compare", "search"} | {"embed"},
    "distill.relation_layer": set(),  # none of these jobs has a weight for relations
    "distill.relation_heads": set(),
    "distill.states_gb": {"named teacher"},
    "init_layers": {"kd", "own text", "named teacher", "compare", "search", "embed"},
    "teacher.name": {*OWN_TEACHER, "named teacher", "paper", "taught", "embed"},
    "teacher.arch": OWN_TEACHER,
    "teacher.max_steps": OWN_TEACHER,
    "teacher.batch_size": OWN_TEACHER,
    "teacher.lr": OWN_TEACHER,
    "optim.muon_ratio": PRETRAINING - {"paper"} | {"embed"},
    "data.source": PRETRAINING,
    "data.path": PRETRAINING,
    "data.text": {"own text", "paper", "custom", "taught", "embed", "pairs"},
    "data.sample_by": {"own text", "paper", "taught", "embed"},
    "data.unlabelled": {"taught", "embed"},
    "data.unlabelled_rows": {"taught", "embed"},
    "data.split_sentences": {"taught", "embed"},
    "data.packing": PRETRAINING,  # of a search: false is refused
    "data.mask_rate": PRETRAINING,
    "data.tokenizer": PRETRAINING,
    "data.vocab_size": PRETRAINING,
    "data.val_fraction": PRETRAINING,
    "data.val_sequences": PRETRAINING,
    "data.root": {"suite", "taught", "embed", "pairs"},
    "data.train": {"custom", "pairs"},
    "data.val": {"custom", "pairs"},
    "data.test": {"custom", "pairs"},
    "data.label": {"custom", "pairs"},
    "data.kind": {"custom"},
    "data.metric": TASKS | {"pairs"},
    "data.windows": TASKS,
    "data.window_stride": set(),  # it goes with data.windows=mean
    "optim.decay": set(),  # it goes with optim.schedule=wsd
    "optim.class_weights": {"docstrings", "suite", "custom", "pairs"},  # of numbers: refused later
}


def names(schema: type, prefix: str = "") -> list[str]:
    """All keys of the settings, those of dataclasses inside of it too."""
    result = []
    for field in fields(schema):
        inner = field.default_factory if callable(field.default_factory) else field.type
        if field.name in ("arch", "trainer", "callbacks") or not is_dataclass(inner):
            result.append(f"{prefix}{field.name}")
        else:
            result += names(inner, f"{prefix}{field.name}.")
    return result


def settings(job: str):
    schema = search_config.SearchRunConfig if job == "search" else TrainConfig
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        base = "search" if job == "search" else "train"
        return parse_settings(compose(base, ["name=x", "output_dir=x", *JOBS[job]]), schema)


def readers(key: str) -> set[str]:
    while key:
        if key in READERS:
            return READERS[key]
        key = key.rpartition(".")[0]
    return set(JOBS)


def test_a_search_by_halving_has_a_schedule_of_its_own():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = ["name=x", "output_dir=x", "search.halving=true"]
        run = parse_settings(compose("search", words), search_config.SearchRunConfig)
    refuse_unused(run, ["optim.decay=0.1"])
    with pytest.raises(BortError, match="optim.schedule=linear cannot be used: search.halving"):
        refuse_unused(run, ["optim.schedule=linear"])


@pytest.mark.parametrize("job", JOBS)
def test_every_key_is_read_or_refused(job):
    run = settings(job)
    keys = [key for key in names(TrainConfig) if not key.startswith("compare.lrs")]
    wrong = {}
    for key in keys:
        try:
            refuse_unused(run, [f"{key}=1"])
            refused = None
        except BortError as error:
            refused = str(error)
            assert refused.startswith(f"{key}=1 ") and len(refused) <= 200
        if (refused is None) != (job in readers(key)) and (job, key) != ("compare", "optim.lr"):
            wrong[key] = refused
    assert not wrong


def test_agora_with_a_pool():
    """It reads the texts without labels, and changes no words."""
    words = ["experiment=agora", "agora.generator=pool", "data.unlabelled=x", "name=x"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run = parse_settings(compose("train", [*words, "output_dir=x"]))
    refuse_unused(run, ["data.unlabelled=x", "data.split_sentences=true", "data.text=body"])
    with pytest.raises(BortError, match="agora.rate=0.2 is not read: agora.generator=pool changes"):
        refuse_unused(run, ["agora.rate=0.2"])


@pytest.mark.parametrize(
    ("job", "override", "line"),
    [
        ("compare", "model=runs/x", "model=runs/x cannot be used: this job trains from fresh"),
        ("search", "model=runs/x", "model=runs/x cannot be used: this job trains from fresh"),
        ("suite", "init=paper", "init=paper is not read: all weights are those of model="),
        ("kd", "data={train: x, length: 8}", "data={train: x, length: 8}: data.train is for exper"),
        ("suite", "arch=bort", "arch=bort cannot be used: model= has an architecture of its own"),
        ("mlm", "teacher.name=", "teacher.name= cannot be used: nothing is distilled here"),
        ("suite", "data=text", "data=text: data.source is for pre-training"),
        ("kd", "task=glue/rte,glue/cola", "task=glue/rte,glue/cola is for experiment=finetune"),
        ("search", "trainer.max_steps=9", "trainer.max_steps=9 is not read by a search: search.n="),
        ("search", "latency.path=x", "latency.path=x is for latency=table"),
        ("search", "+latency.shapes=7", "+latency.shapes=7 is for latency=fitted"),
    ],
)
def test_the_line_says_what_instead(job, override, line):
    with pytest.raises(BortError) as error:
        refuse_unused(settings(job), [override], (*RULES, *LATENCY_RULES))
    assert str(error.value).startswith(line)


def test_a_counted_latency_reads_no_threads():
    run = replace(settings("search"), latency=LatencyConfig())
    with pytest.raises(BortError) as error:
        refuse_unused(run, ["latency.threads=2"], (*RULES, *LATENCY_RULES))
    line = "latency.threads=2 is for a latency that is measured here"
    assert str(error.value).startswith(line)


def test_one_length_is_not_read_beside_several():
    run = replace(settings("search"), latency=LatencyConfig(lengths=[8, 16]))
    with pytest.raises(BortError) as error:
        refuse_unused(run, ["latency.length=8"], (*RULES, *LATENCY_RULES))
    assert str(error.value).startswith("latency.length=8 is replaced by latency.lengths=")


@pytest.mark.parametrize("override", ["~callbacks", "hydra.job.num=3", "hydra/launcher=basic"])
def test_what_is_left_out_and_what_is_hydras_is_no_setting(override):
    refuse_unused(settings("mlm"), [override])


@pytest.mark.parametrize(
    ("given", "override", "line"),
    [
        (["grid=tiny", "out=x.csv"], "archs=[bort]", "archs=[bort] cannot be used beside grid="),
        (["batches=[1,8]"], "latency.batch=4", "latency.batch=4 is replaced by batches="),
        ([], "latency.lengths=[8,16]", "latency.lengths=[8,16] is for a search and for grid="),
        ([], "memory=false", "memory=false is for models= and engines="),
        (["archs=[]", "models=[x]"], "vocab_size=9", "vocab_size=9 is that of archs= and grid="),
    ],
)
def test_a_benchmark_too(given, override, line):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("benchmark", [*given, override])
    run = parse_settings(cfg, BenchmarkConfig)
    with pytest.raises(BortError) as error:
        refuse_unused(run, [*given, override], (*LATENCY_RULES, *BENCHMARK_RULES))
    assert str(error.value).startswith(line)
    refuse_unused(run, given, (*LATENCY_RULES, *BENCHMARK_RULES))


@pytest.mark.parametrize("experiment", ["finetune", "agora"])
def test_files_of_ones_own_are_a_task_of_ones_own(experiment):
    overrides = [f"experiment={experiment}", "model=x", "data.train=a.csv", "name=x"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run = parse_settings(compose("train", [*overrides, "output_dir=x"]))
    assert run.task == "custom"


@pytest.mark.parametrize("experiment", ["mlm_pretrain", "teacher_pretrain"])
@pytest.mark.parametrize("weight", ["w_kd=0.5", "w_kd=null", "w_hidden=1", "w_relation=2"])
def test_an_experiment_without_a_teacher_distils_nothing(experiment, weight):
    words = [f"experiment={experiment}", f"distill.{weight}", "teacher.name=x"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run = parse_settings(compose("train", ["name=x", "output_dir=x", *words]))
    with pytest.raises(BortError) as error:
        refuse_distillation(run, experiment)
    assert str(error.value) == (
        f"distill.{weight} is for experiment=kd_pretrain: experiment={experiment} trains without a "
        "teacher"
    )
    refuse_distillation(run, "kd_pretrain")
    refuse_distillation(settings("mlm"), experiment)
