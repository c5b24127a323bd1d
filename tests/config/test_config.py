"""Every file of conf/ composes; every wrong value is one line that names its key."""

import re
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from bort.config.agora import AgoraConfig, ThetaConfig
from bort.config.arch import ArchConfig
from bort.config.compose import parse_settings
from bort.config.data import DataConfig
from bort.config.distill import DistillConfig, TeacherConfig
from bort.config.fingerprint import fingerprint, flatten_settings
from bort.config.optim import OptimConfig
from bort.config.search import (
    SOURCES,
    BenchmarkConfig,
    GridConfig,
    LatencyConfig,
    SearchConfig,
    SearchRunConfig,
)
from bort.config.train import RUN_CONFIGS, CompareConfig, LoggerConfig, TrainConfig
from bort.errors import BortError, nearest
from bort.files.cache import cache_folder
from bort.models.arch import Arch

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
NEEDED = ["name=test", "output_dir=runs/test"]  # what only a job of Hydra has
OF_TASKS = ["task=glue/rte", "model=folder"]  # what only fine-tuning needs


def composed(*overrides: str, of: type[TrainConfig] = TrainConfig) -> TrainConfig:
    name = {TrainConfig: "train", SearchRunConfig: "search"}[of]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_settings(compose(name, [*NEEDED, *overrides]), of)


# ------------------------------------------------------------------------------------ conf/


def test_how_many_there_are():
    assert len(FILES) == 53
    assert EXPERIMENTS == [
        *("agora", "finetune", "kd_pretrain", "kd_vs_mlm", "mlm_pretrain", "paper"),
        "teacher_pretrain",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_composes(path, tmp_path, monkeypatch):
    of = SearchRunConfig if path.parent.name in ("grid", "latency") else TrainConfig
    given = [f"{path.parent.name}={path.stem}", *OF_TASKS]
    group = f"{path.parent.name}/{path.stem}"
    given += ["data.path=text.txt"] if group in ("experiment/paper", "data/text") else []
    if path.stem == "table":
        (tmp_path / "x.csv").write_text("")
        given.append(f"latency.path={tmp_path / 'x.csv'}")
    if path.stem == "tensorboard":
        monkeypatch.setattr("bort.config.train.find_spec", lambda name: name)
    if path.stem == "none" and of is SearchRunConfig:
        with pytest.raises(BortError, match="search.py needs candidates; use grid=tiny"):
            composed(*given, of=of)
        return
    run = composed(*given, of=of)
    assert isinstance(run, of)
    plain = OmegaConf.to_container(OmegaConf.load(path))
    if path.parent.name in ("arch", "data", "optim", "logger", "grid", "latency"):
        group = asdict(getattr(run, path.parent.name))
        assert plain and {**group, **plain} == group


@pytest.mark.parametrize("debug", ["default", "overfit", "profiler"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_debugged(experiment, debug):
    text = ["data.path=text.txt"] if experiment == "paper" else []
    run = composed(f"experiment={experiment}", f"debug={debug}", *text, *OF_TASKS)
    assert run.trainer["max_steps"] == {"default": 1, "overfit": 300, "profiler": 50}[debug]
    assert (run.teacher.max_steps == 1) == (debug == "default")


def test_later_beats_earlier():
    assert composed().trainer["max_steps"] == 1200
    assert composed("experiment=teacher_pretrain").trainer["max_steps"] == 1500
    assert composed("experiment=teacher_pretrain", "debug=default").trainer["max_steps"] == 1
    own = composed("experiment=teacher_pretrain", "debug=default", "trainer.max_steps=9")
    assert own.trainer["max_steps"] == 9


def test_what_the_experiments_are():
    """The paper's numbers from arXiv 2010.10499, §4; plain MLM differs from KD in its loss only."""
    paper = composed("experiment=paper", "data.path=text.txt")
    assert str(paper.arch) == "⟨4,8,1024,768⟩" and paper.teacher.name == "roberta-large"
    assert asdict(paper.distill) == {"w_kd": 0.5, "w_mlm": 0.1, "temperature": 2.0}
    assert (paper.init, paper.dropout, paper.data.length) == ("paper", 0.1, 512)
    optim = paper.optim
    assert (optim.name, optim.lr, optim.eps, optim.weight_decay) == ("adamw", 1e-4, 1e-6, 0.01)
    assert (paper.data.mask_rate, paper.trainer["gradient_clip_val"]) == (0.15, 1.0)
    kd, mlm = composed("experiment=kd_pretrain"), composed("experiment=mlm_pretrain")
    assert asdict(replace(kd, distill=mlm.distill)) == asdict(mlm)
    assert (mlm.distill.w_kd, mlm.distill.w_mlm) == (0.0, 1.0)
    assert kd.needs_teacher and not mlm.needs_teacher
    assert composed("experiment=kd_vs_mlm").job == "compare"
    teacher = composed("experiment=teacher_pretrain")
    assert teacher.arch == kd.teacher.arch and not teacher.needs_teacher
    assert teacher.trainer["max_steps"] == kd.teacher.max_steps
    assert teacher.data.batch_size == kd.teacher.batch_size


def test_gpu_compiles_in_bfloat16():
    run = composed("trainer=gpu")
    assert run.compile and run.trainer["precision"] == "bf16-mixed"
    assert run.trainer["accelerator"] == "gpu" and run.trainer["max_steps"] == 1200


def test_each_default_is_written_once():
    """The YAML of a group repeats no default of its dataclass, apart from its own name."""
    for group, kind in (("data", DataConfig), ("optim", OptimConfig), ("logger", LoggerConfig)):
        for path in (CONF / group).glob("*.yaml"):
            plain = OmegaConf.to_container(OmegaConf.load(path))
            repeated = {k for k, v in plain.items() if getattr(kind(), k) == v}
            assert repeated <= {"name", "source"}, path


# ------------------------------------------------------------------------------------ parse


def test_parse_gives_typed_values():
    run = composed("optim.lr=3", "compare.lrs=[1,2e-3]", "data.path=null", "logger.tags=[a]")
    assert run.optim.lr == 3.0 and isinstance(run.optim.lr, float)
    assert run.compare.lrs == [1.0, 2e-3] and run.logger.tags == ["a"] and run.data.path is None
    for field in fields(TrainConfig):
        value = getattr(run, field.name)
        expected = Arch if field.type is ArchConfig else field.type
        assert type(value) is expected if is_dataclass(expected) else True
    assert type(run.teacher.arch) is Arch
    assert type(run.trainer) is dict and run.callbacks == {}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("optim.lrr=1", ConfigCompositionException, "Could not override 'optim.lrr'"),
        ("+optim.lrr=1", ConfigCompositionException, "Key 'lrr' not in 'OptimConfig'"),
        ("+data.foo=1", ConfigCompositionException, "Key 'foo' not in 'DataConfig'"),
        ("+foo=1", ConfigKeyError, "Key 'foo' not in 'PretrainRunConfig'"),
        ("optim.lr=fast", ConfigCompositionException, "could not be converted to Float"),
        ("arch.depth=2.5", ConfigCompositionException, "could not be converted to Integer"),
    ],
)
def test_unknown_keys_and_wrong_types(override, error, message):
    with pytest.raises((error, ConfigKeyError)) as raised:
        composed(override)
    causes = [raised.value, raised.value.__cause__]
    assert any(message in str(cause) for cause in causes)


def test_the_command_line_is_left_as_it_was():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*NEEDED, f"arch_file={CONF}/arch/bort.yaml"])
    before = OmegaConf.to_yaml(cfg)
    parse_settings(cfg)
    assert OmegaConf.to_yaml(cfg) == before


# ------------------------------------------------------------------------------------ arch_file


@pytest.mark.parametrize(
    "content",
    [
        "depth: 3\nheads: 2\nhidden: 8\nintermediate: 5\n",
        "arch:\n  depth: 3\n  heads: 2\n  hidden: 8\n  intermediate: 5\nw: 0.7\n",
    ],
)
def test_architecture_of_a_search(tmp_path, content):
    (tmp_path / "optimum.yaml").write_text(content)
    assert composed(f"arch_file={tmp_path}/optimum.yaml").arch == Arch(3, 2, 8, 5)


@pytest.mark.parametrize("content", ["depth: 3\nheads: 2\nhidden: 8\n", "[1, 2]", "{", "", "7"])
def test_a_file_that_is_no_architecture(tmp_path, content):
    path = tmp_path / "optimum.yaml"
    path.write_text(content)
    with pytest.raises(BortError) as error:
        composed(f"arch_file={path}")
    assert str(error.value).startswith(
        f"arch_file={path} is not an architecture; it needs the four"
    )


def test_numbers_of_a_file_are_checked_like_others(tmp_path):
    path = tmp_path / "optimum.yaml"
    path.write_text("depth: 2.5\nheads: 2\nhidden: 8\nintermediate: 5\n")
    with pytest.raises(ValidationError, match=r"'2\.5' of type 'float' could not be converted"):
        composed(f"arch_file={path}")
    path.write_text("depth: 2\nheads: 3\nhidden: 8\nintermediate: 5\n")
    with pytest.raises(BortError, match="arch.heads=3 does not divide arch.hidden=8"):
        composed(f"arch_file={path}")


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "optimum.yaml").write_text("")
    with pytest.raises(BortError) as error:
        composed(f"arch_file={tmp_path}/optimun.yaml")
    text = (
        f"arch_file={tmp_path}/optimun.yaml does not exist; did you mean '{tmp_path}/optimum.yaml'?"
    )
    assert str(error.value) == text
    with pytest.raises(BortError, match="does not exist$"):
        composed(f"arch_file={tmp_path}/no/folder.yaml")


# ------------------------------------------------------------------------------------ messages


def complete(**changes) -> TrainConfig:
    settings = {"arch": Arch(1, 1, 4, 4), "name": "x", "output_dir": "runs/x"} | changes
    return RUN_CONFIGS.get(settings.setdefault("job", "pretrain"), TrainConfig)(**settings)


MESSAGES = [
    (lambda: complete(head="cls"), "head=cls is unknown; use linear, bort"),
    (lambda: complete(patience=0), "patience=0 must be at least 1"),
    (
        lambda: complete(job="agora", task="docstrings", patience=2),
        "patience is for experiment=finetune: Agora's arms get equal steps",
    ),
    (
        lambda: complete(job="agora", task="docstrings", trainer={"devices": 2}),
        "experiment=agora trains on one device; use trainer.devices=1",
    ),
    (
        lambda: complete(job="finetune", task="glue/rte"),
        "task=glue/rte needs model=FOLDER, as in task=glue/rte model=runs/kd_pretrain/first "
        "data.root=glue_data",
    ),
    (
        lambda: complete(job="finetune", task="custom"),
        "task=custom needs model=FOLDER and data.train=FILE (csv, tsv, jsonl or parquet), "
        "data.text=COLUMN, data.label=COLUMN",
    ),
    (
        lambda: complete(job="finetune", task="custom", model="x"),
        "task=custom needs data.train=FILE (csv, tsv, jsonl or parquet), data.text=COLUMN and "
        "data.label=COLUMN",
    ),
    (
        lambda: complete(
            job="finetune", task="custom", model="x", data=DataConfig(train="a.csv", text="label")
        ),
        "data.label=label is the text, too; name the label's column",
    ),
    (
        lambda: complete(data=DataConfig(text=["a", "b"])),
        "data.text names two columns, which task=custom takes; name one here",
    ),
    (
        lambda: DataConfig(text=["a", "b", "c"]),
        "data.text=['a', 'b', 'c'] must name one column, or two as in [a,b]",
    ),
    (
        lambda: DataConfig(kind="class"),
        "data.kind=class is unknown; use auto, classes, number; did you mean 'classes'?",
    ),
    (lambda: LatencyConfig(source="clock"), "latency=clock is unknown; use " + ", ".join(SOURCES)),
    (
        lambda: LatencyConfig(engine="onyx"),
        "latency.engine=onyx is unknown; use measured, onnx, onnx_int8; did you mean 'onnx'?",
    ),
    (lambda: LatencyConfig(length=3), "latency.length=3 must be at least 4"),
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
        lambda: DataConfig(path="a.txt"),
        "data.path=a.txt is read with data=text only; add data=text",
    ),
    (lambda: SearchConfig(n=3), "search.n=3 must be at least 4: its quarters are compared"),
    (lambda: SearchConfig(epsilon=0), "search.epsilon=0 must be at least 1"),
    (
        lambda: SearchConfig(assume="mono"),
        "search.assume=mono is unknown; use none, monotone; did you mean 'monotone'?",
    ),
    (lambda: SearchConfig(objective="W"), "search.objective=W is unknown; use w, error"),
    (lambda: SearchConfig(error="kl"), "search.error=kl is unknown; use ratio, perplexity"),
    (
        lambda: SearchConfig(exponents=[1, 1]),
        "search.exponents=[1, 1] must be three numbers, at least 0, not all 0",
    ),
    (lambda: SearchConfig(max_params=0), "search.max_params=0 must be above 0"),
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
        "grid: no number of heads divides any hidden size; mend grid.heads",
    ),
    (
        lambda: BenchmarkConfig(vocab_size=7, grid=GridConfig([], [])),
        "vocab_size=7 must be at least 8",
    ),
    (lambda: ArchConfig(0, 1, 4, 4), "arch.depth=0 must be at least 1"),
    (lambda: ArchConfig(1, -1, 4, 4), "arch.heads=-1 must be at least 1"),
    (lambda: ArchConfig(1, 1, 0, 4), "arch.hidden=0 must be at least 1"),
    (lambda: ArchConfig(1, 1, 4, 0), "arch.intermediate=0 must be at least 1"),
    (
        lambda: ArchConfig(4, 12, 1024, 768),
        "arch.heads=12 does not divide arch.hidden=1024; use 4, 8 or 16",
    ),
    (
        lambda: DataConfig(source="txt"),
        "data.source=txt is unknown; use docstrings, text; did you mean 'text'?",
    ),
    (
        lambda: DataConfig(sample_by="lines"),
        "data.sample_by=lines is unknown; use line, paragraph, file; did you mean 'line'?",
    ),
    (
        lambda: complete(data=DataConfig(source="text")),
        "data=text needs data.path=FILE, FOLDER or the name of a hub data set",
    ),
    (lambda: DataConfig(length=3), "data.length=3 must be at least 4"),
    (lambda: DataConfig(batch_size=0), "data.batch_size=0 must be at least 1"),
    (lambda: DataConfig(vocab_size=260), "data.vocab_size=260 must be at least 261"),
    (lambda: DataConfig(val_sequences=0), "data.val_sequences=0 must be at least 1"),
    (lambda: DataConfig(workers=-1), "data.workers=-1 must be at least 0"),
    (lambda: DataConfig(val_fraction=1.0), "data.val_fraction=1 must be at least 0 and below 1"),
    (
        lambda: DataConfig(val_fraction=-0.1),
        "data.val_fraction=-0.1 must be at least 0 and below 1",
    ),
    (lambda: DataConfig(mask_rate=0.0), "data.mask_rate=0 must be above 0 and below 1"),
    (lambda: DataConfig(mask_rate=1.0), "data.mask_rate=1 must be above 0 and below 1"),
    (
        lambda: OptimConfig(name="adam"),
        "optim.name=adam is unknown; use muon, adamw; did you mean 'adamw'?",
    ),
    (lambda: OptimConfig(lr=0), "optim.lr=0 must be above 0"),
    (lambda: OptimConfig(lr=float("nan")), "optim.lr=nan must be above 0"),
    (
        lambda: complete(output_dir="runs/a=b"),
        "output_dir='runs/a=b' must consist of letters, digits and _ - . / : +",
    ),
    (lambda: OptimConfig(muon_ratio=-1), "optim.muon_ratio=-1 must be above 0"),
    (lambda: OptimConfig(eps=0), "optim.eps=0 must be above 0"),
    (lambda: OptimConfig(weight_decay=-1), "optim.weight_decay=-1 must be at least 0"),
    (lambda: OptimConfig(warmup=1.0), "optim.warmup=1 must be at least 0 and below 1"),
    (lambda: OptimConfig(beta1=1.0), "optim.beta1=1 must be at least 0 and below 1"),
    (lambda: OptimConfig(beta2=-0.5), "optim.beta2=-0.5 must be at least 0 and below 1"),
    (lambda: DistillConfig(w_kd=-1), "distill.w_kd=-1 must be at least 0"),
    (lambda: DistillConfig(w_mlm=-1), "distill.w_mlm=-1 must be at least 0"),
    (
        lambda: DistillConfig(w_kd=0, w_mlm=0),
        "distill.w_kd and distill.w_mlm are both 0; nothing would be learnt",
    ),
    (lambda: DistillConfig(temperature=0), "distill.temperature=0 must be above 0"),
    (lambda: TeacherConfig(max_steps=0), "teacher.max_steps=0 must be at least 1"),
    (lambda: TeacherConfig(batch_size=0), "teacher.batch_size=0 must be at least 1"),
    (lambda: TeacherConfig(lr=0), "teacher.lr=0 must be above 0"),
    (lambda: CompareConfig(lrs=[]), "compare.lrs=[] needs at least one rate, all above 0"),
    (
        lambda: CompareConfig(lrs=[0.1, 0]),
        "compare.lrs=[0.1, 0] needs at least one rate, all above 0",
    ),
    (lambda: ThetaConfig(lr=[]), "agora.grid.lr=[] leaves nothing to train; give it values"),
    (lambda: ThetaConfig(seed=[1, 1]), "agora.grid.seed=[1, 1] names a value twice"),
    (lambda: ThetaConfig(lr_factor=[1, 0]), "agora.grid.lr_factor=[1, 0] must be above 0"),
    (lambda: ThetaConfig(weight_decay=[-1]), "agora.grid.weight_decay=[-1] must be at least 0"),
    (lambda: ThetaConfig(warmup=[0, 1]), "agora.grid.warmup=[0, 1] must be below 1"),
    (
        lambda: AgoraConfig(prune="halve"),
        "agora.prune=halve is unknown; use half, lcs; did you mean 'half'?",
    ),
    (
        lambda: AgoraConfig(generator="mlms"),
        "agora.generator=mlms is unknown; use mlm, nearest, edit; did you mean 'mlm'?",
    ),
    (
        lambda: AgoraConfig(mistakes="training"),
        "agora.mistakes=training is unknown; use train, eval; did you mean 'train'?",
    ),
    (
        lambda: AgoraConfig(labels="softer"),
        "agora.labels=softer is unknown; use hard, soft; did you mean 'soft'?",
    ),
    (lambda: AgoraConfig(replays=-1), "agora.replays=-1 must be at least 0"),
    (lambda: AgoraConfig(rounds=0), "agora.rounds=0 must be at least 1"),
    (lambda: AgoraConfig(samples=0), "agora.samples=0 must be at least 1"),
    (lambda: AgoraConfig(confidence=1.0), "agora.confidence=1 must be at least 0 and below 1"),
    (lambda: AgoraConfig(guard=-0.1), "agora.guard=-0.1 must be at least 0 and below 1"),
    (lambda: AgoraConfig(rate=0), "agora.rate=0 must be above 0 and below 1"),
    (lambda: AgoraConfig(eval_fraction=1), "agora.eval_fraction=1 must be above 0 and below 1"),
    (
        lambda: LoggerConfig(name="wandbb"),
        "logger.name=wandbb is unknown; use csv, wandb, tensorboard, none; did you mean 'wandb'?",
    ),
    (
        lambda: LoggerConfig(mode="ofline"),
        "logger.mode=ofline is unknown; use auto, online, offline; did you mean 'offline'?",
    ),
    (
        lambda: complete(job="pretrian"),
        "job=pretrian is unknown; use pretrain, compare, finetune, agora; did you mean 'pretrain'?",
    ),
    (
        lambda: complete(init="techer"),
        "init=techer is unknown; use default, paper, teacher; did you mean 'teacher'?",
    ),
    *(
        (
            lambda name=name: complete(name=name),
            f"name={name!r} cannot name a run folder; use letters, digits and _ - . : +",
        )
        for name in ("", ".", "..", "a b", "a/b", "lr=1", "a,b", "[x]", "naïve", "'")  # case C1
    ),
    (lambda: complete(dropout=1.0), "dropout=1 must be at least 0 and below 1"),
    (lambda: complete(checkpoint_every=0), "checkpoint_every=0 must be at least 1"),
    (lambda: complete(seed=-1), "seed=-1 must be at least 0 and below 4.29497e+09"),
    (lambda: complete(seed=2**32), "seed=4.29497e+09 must be at least 0 and below 4.29497e+09"),
    (
        lambda: complete(trainer={"max_steps": "many"}),
        "trainer.max_steps=many must be a whole number, at least -1",
    ),
    (
        lambda: complete(trainer={"accumulate_grad_batches": 1.5}),
        "trainer.accumulate_grad_batches=1.5 must be a whole number, at least 1",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


def test_no_check_is_without_a_test():
    """Each key that a `__post_init__` checks by itself is named by a message above."""
    modules = (CONF.parent / "bort" / "config").glob("*.py")
    text = "".join(path.read_text("utf-8") for path in modules)
    checked = re.findall(r'(?:at_least|one_of)\("([\w.]+)"', text)
    assert len(checked) == 42
    assert not [key for key in checked if not any(m.startswith(f"{key}=") for _, m in MESSAGES)]


def test_points_of_a_grid():
    """350 valid ones in the paper's; heads by size, intermediate by ratio; each point once."""
    valid, invalid = composed("grid=paper", of=SearchRunConfig).grid.points()
    assert (len(valid), len(invalid)) == (350, 70)
    assert Arch(4, 8, 1024, 768) in valid and Arch(4, 12, 1024, 768) in invalid
    valid, invalid = composed(of=SearchRunConfig).grid.points()
    assert (len(valid), len(invalid)) == (24, 0)
    assert {a.hidden // a.heads for a in valid} == {32} and Arch(2, 4, 128, 512) in valid
    valid, _ = GridConfig([1, 1], [8], [2], None, None, [1, 1.5]).points()
    assert valid == [Arch(1, 2, 8, 8), Arch(1, 2, 8, 12)]


def test_limits_are_allowed():
    ArchConfig(1, 1, 1, 1)
    DataConfig(length=4, batch_size=1, vocab_size=261, val_fraction=0, mask_rate=1e-9)
    OptimConfig(weight_decay=0, warmup=0, beta1=0, beta2=0)
    complete(name="2026-11-25_06:30:00+b.1", dropout=0, seed=2**32 - 1)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("bort", ["bert", "port", "tiny"], "; did you mean 'port'?"),
        ("tiny_teachr", ["tiny", "tiny_teacher"], "; did you mean 'tiny_teacher'?"),
        ("zebra", ["bort"], ""),
        ("x", [], ""),
    ],
)
def test_nearest(name, known, hint):
    assert nearest(name, known) == hint


# ------------------------------------------------------------------------------------ settings


def test_settings_are_flat_and_leave_out_what_changes_no_weight():
    run = composed()
    flat = flatten_settings(run)
    assert flat["optim.lr"] == pytest.approx(4e-3 * 2**0.67)  # of width 64
    assert flat["arch.hidden"] == 64 and flat["seed"] == 0
    assert not [value for value in flat.values() if isinstance(value, dict)]
    free = replace(
        run,
        **{"name": "y", "output_dir": "z", "resume": False, "dry_run": True, "callbacks": {"a": 1}},
        logger=LoggerConfig(name="wandb"),
        checkpoint_every=3,
        data=replace(run.data, workers=4),
        trainer={**run.trainer, "profiler": "simple", "log_every_n_steps": 7},
    )
    assert flatten_settings(free) == flat
    for change in (
        {"seed": 1},
        {"dropout": 0.1},
        {"compile": True},
        {"data": replace(run.data, length=64)},
        {"optim": replace(run.optim, beta1=0.8)},
        {"trainer": {**run.trainer, "max_steps": 3}},
        {"trainer": {**run.trainer, "precision": "bf16-mixed"}},
        {"callbacks": {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}}},
    ):
        other = flatten_settings(replace(run, **change))
        assert len([k for k in {**flat, **other} if flat.get(k) != other.get(k)]) == 1


def test_fingerprint():
    a = {"x": 1, "y": [1, 2], "z": None}
    assert fingerprint(a) == fingerprint(dict(reversed(a.items())))
    assert fingerprint(a) != fingerprint(a | {"x": 2})
    assert len(fingerprint(a)) == 16 and int(fingerprint(a), 16) >= 0


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BORT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for unset in (
        lambda: monkeypatch.setenv("BORT_CACHE", ""),
        lambda: monkeypatch.delenv("BORT_CACHE"),
    ):
        unset()
        assert cache_folder() == Path.home() / ".cache" / "bort"


# ------------------------------------------------------------------------------------ rates


def test_one_rule_for_rates():
    """What no rate is given for is trained at 4e-3 · (H / 128)^-0.67, whatever the command."""

    def rule(hidden: int):
        return pytest.approx(4e-3 * (hidden / 128) ** -0.67, rel=1e-12)

    for experiment in ("kd_pretrain", "mlm_pretrain"):
        for arch, hidden in (("tiny", 64), ("bort", 1024), ("bert_base", 768)):
            run = composed(f"experiment={experiment}", f"arch={arch}")
            assert run.optim.lr == rule(hidden) and run.arch.hidden == hidden
    assert composed("arch=bort").optim.lr == pytest.approx(1e-3, rel=0.01)
    assert composed("experiment=teacher_pretrain").optim.lr == rule(128) == 4e-3
    assert composed("teacher.arch.hidden=256").teacher.lr == rule(256)
    assert composed("experiment=kd_vs_mlm", "arch.hidden=32").compare.lrs == [rule(32)]
    # what is given is taken as it is
    assert composed("arch=bort", "optim.lr=2e-3").optim.lr == 2e-3
    assert composed("experiment=kd_vs_mlm", "optim.lr=2e-3").compare.lrs == [2e-3]
    assert composed("teacher.lr=1e-3").teacher.lr == 1e-3
    assert composed("experiment=finetune").optim.lr is None  # which has a rule of its own


# ------------------------------------------------------------------------------------ describe


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["experiment=mlm_pretrain", "arch=bort", "trainer.max_steps=9"],
            "⟨4,8,1024,768⟩ learns by plain MLM on embedded docstrings, 9 steps of 8 × 128 tokens, "
            "lr 0.000993",
        ),
        (
            ["teacher.name=x/y", "data=text", "data.path=my.txt", "data.length=16"],
            "⟨2,2,64,256⟩ learns from teacher x/y on my.txt, 1,200 steps of 8 × 16 tokens, "
            "lr 0.00636",
        ),
        (
            ["experiment=kd_vs_mlm", "trainer.accumulate_grad_batches=4"],
            "⟨2,2,64,256⟩ with and without teacher ⟨2,4,128,512⟩ (trained first unless cached) on "
            "embedded docstrings, 1,200 steps of 32 × 128 tokens, lr 0.00636",
        ),
        (
            ["experiment=mlm_pretrain", "trainer.max_time='00:01:00:00'"],
            "⟨2,2,64,256⟩ learns by plain MLM on embedded docstrings, 00:01:00:00 (DD:HH:MM:SS) of "
            "8 × 128 tokens a step, lr 0.00636",
        ),
    ],
)
def test_describe(overrides, line):
    assert composed(*overrides).describe() == line


def test_the_cache_is_asked_for_a_home_only_where_it_needs_one(monkeypatch, tmp_path):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setenv("BORT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("BORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bort"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(BortError, match="no home folder .* set BORT_CACHE=FOLDER"):
        cache_folder()
