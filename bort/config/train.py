"""Typed settings of a run. The defaults of a key live here and nowhere else; `conf/` composes them.

Nothing heavy is imported: `--cfg job`, `--help` and tab completion load this module.
"""

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from bort.config.ranges import check_trainer_numbers
from bort.console import counted
from bort.errors import BortError, at_least, at_most, nearest_path, one_of
from bort.files.untrusted import read_yaml
from bort.machine import user_cache
from bort.models.arch import INITS, Arch


def cache_folder() -> Path:
    """Where corpora and trained teachers are kept: $BORT_CACHE, or bort in the user's cache."""
    if (folder := user_cache()) is None:
        raise BortError(
            "this user has no home folder to keep corpora and teachers in; set BORT_CACHE=FOLDER"
        )
    return folder


@dataclass
class ArchConfig:
    """The four keys of `arch=`: `TrainConfig` makes an `Arch` of them.

    An `Arch` is frozen, and no command line could override a key of a frozen schema.
    """

    depth: int = MISSING
    heads: int = MISSING
    hidden: int = MISSING
    intermediate: int = MISSING

    def __post_init__(self) -> None:
        self.to_arch()

    def to_arch(self) -> Arch:
        """The architecture with these numbers; raises BortError when no model can have them."""
        return Arch(**vars(self)).check()


@dataclass
class DataConfig:
    """Text and how it becomes batches."""

    source: str = "docstrings"  # docstrings (embedded) or text (data.path)
    path: str | None = None  # file, folder or hub name with the user's text
    text: Any = "text"  # key or column that holds the text; of task=custom also [first, second]
    sample_by: str = "line"  # a document of a .txt or .md file: line, paragraph or file
    length: int = 128  # tokens in a sequence, first and last special token included
    batch_size: int = 8  # sequences in a batch
    mask_rate: float = 0.3  # share of tokens masked in training; evaluation always uses 0.15
    tokenizer: str = "auto"  # auto (the teacher's, else bpe), bpe, or a folder or hub name
    vocab_size: int = 8192  # of a tokenizer trained on the text
    val_fraction: float = 0.03  # share of documents held out, chosen by their own hash
    val_sequences: int = 512  # sequences that one evaluation reads
    workers: int = 0  # loader processes; masking takes well under a millisecond without any
    root: str | None = None  # folder of a suite's official files (task=); null: from the hub
    train: str | None = None  # files of task=custom: csv, tsv, jsonl or parquet
    val: str | None = None  # null: a tenth of the training rows is held out
    test: str | None = None
    label: str = "label"  # column of task=custom
    kind: str = "auto"  # of its labels: classes, number, or auto (by how they look)

    def __post_init__(self) -> None:
        one_of("data.source", self.source, ("docstrings", "text"))
        one_of("data.sample_by", self.sample_by, ("line", "paragraph", "file"))
        one_of("data.kind", self.kind, ("auto", "classes", "number"))
        texts = self.texts
        if not 1 <= len(texts) <= 2 or not all(isinstance(name, str) for name in texts):
            raise BortError(f"data.text={self.text} must name one column, or two as in [a,b]")
        if self.source != "text" and self.path:
            raise BortError(f"data.path={self.path} is read with data=text only; add data=text")
        at_least("data.length", self.length, 4)
        at_least("data.batch_size", self.batch_size, 1)
        at_least("data.vocab_size", self.vocab_size, 261)  # 256 bytes and 5 special tokens
        at_least("data.val_sequences", self.val_sequences, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.val_fraction", self.val_fraction, 0, below=1)
        at_most("data.length", self.length, 65_536)  # a table of positions has a row for each
        at_most("data.vocab_size", self.vocab_size, 10_000_000)
        at_most("data.workers", self.workers, max(16, 4 * (os.cpu_count() or 1)))
        if not 0 < self.mask_rate < 1:
            raise BortError(f"data.mask_rate={self.mask_rate:g} must be above 0 and below 1")

    @property
    def texts(self) -> tuple[str, ...]:
        """The one or two columns that data.text names."""
        return tuple(self.text) if isinstance(self.text, list) else (self.text,)


BASE_LR, BASE_WIDTH = 4e-3, 128  # the best rate at this width, measured; narrower ones take more
KAPPA = 0.67  # measured at H = 32, 64 and 128


def width_lr(hidden: int, base: float = BASE_LR, kappa: float = KAPPA) -> float:
    """Peak rate of AdamW that suits a width, when `base` suits BASE_WIDTH."""
    return base * (hidden / BASE_WIDTH) ** -kappa


@dataclass
class OptimConfig:
    """Muon for the encoder's matrices and AdamW for the rest, or AdamW alone (the paper's)."""

    name: str = "muon"  # muon or adamw
    # peak rate of AdamW; null: 4e-3 · (H / 128)^-0.67, in fine-tuning 0.064 / H. In a search it is
    # the rate at H = 128, and search.kappa gives that of each candidate.
    lr: float | None = None
    muon_ratio: float = 2.5  # peak rate of Muon = lr × muon_ratio
    weight_decay: float = 0.01  # not on LayerNorm, biases and embeddings
    warmup: float = 0.05  # share of the budget; linear up, then linear down to 0
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, ("muon", "adamw"))
        for key in ("lr", "muon_ratio", "eps"):
            if getattr(self, key) is not None and not getattr(self, key) > 0:
                raise BortError(f"optim.{key}={getattr(self, key):g} must be above 0")
        at_least("optim.weight_decay", self.weight_decay, 0)
        at_least("optim.warmup", self.warmup, 0, below=1)
        at_least("optim.beta1", self.beta1, 0, below=1)
        at_least("optim.beta2", self.beta2, 0, below=1)


@dataclass
class DistillConfig:
    """Loss weights: w_kd · τ² · KL(teacher ‖ student) + w_mlm · cross-entropy; w_kd = 0 is MLM."""

    w_kd: float = 1.0
    w_mlm: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        at_least("distill.w_kd", self.w_kd, 0)
        at_least("distill.w_mlm", self.w_mlm, 0)
        if self.w_kd == self.w_mlm == 0:
            raise BortError("distill.w_kd and distill.w_mlm are both 0; nothing would be learnt")
        if not self.temperature > 0:
            raise BortError(f"distill.temperature={self.temperature:g} must be above 0")


@dataclass
class TeacherConfig:
    """A masked LM by name or folder; without a name one is trained on the same text first."""

    name: str | None = None
    arch: ArchConfig = field(default_factory=lambda: ArchConfig(2, 4, 128, 512))
    max_steps: int = 1500
    batch_size: int = 16  # at 8 the same tokens may leave it on a plateau
    lr: float | None = None  # null: by the width of teacher.arch, as optim.lr

    def __post_init__(self) -> None:
        at_least("teacher.max_steps", self.max_steps, 1)
        at_least("teacher.batch_size", self.batch_size, 1)
        if self.lr is not None and not self.lr > 0:
            raise BortError(f"teacher.lr={self.lr:g} must be above 0")


@dataclass
class CompareConfig:
    """KD against plain MLM from the same start, at equal steps and at equal wall clock."""

    lrs: list[float] | None = None  # each arm takes its best of these; null: optim.lr alone

    def __post_init__(self) -> None:
        if self.lrs is not None and (not self.lrs or min(self.lrs) <= 0):
            raise BortError(f"compare.lrs={self.lrs} needs at least one rate, all above 0")


@dataclass
class ThetaConfig:
    """Θ of Agora: every combination of these; null is the run's own value."""

    lr: list[float] | None = None  # peak rates; null: lr_factor times the run's own
    lr_factor: list[float] = field(default_factory=lambda: [1.0, 3.0])
    seed: list[int] | None = field(default_factory=lambda: [0, 1])
    weight_decay: list[float] | None = None
    warmup: list[float] | None = None
    batch_size: list[int] | None = None
    epochs: list[int] | None = None

    def __post_init__(self) -> None:
        for key, values in vars(self).items():
            if values is not None and not values:
                raise BortError(f"agora.grid.{key}=[] leaves nothing to train; give it values")
            if values and len(set(values)) < len(values):
                raise BortError(f"agora.grid.{key}={values} names a value twice")
            zero = key in ("seed", "weight_decay", "warmup")
            if any(value < 0 or (value == 0 and not zero) for value in values or ()):
                raise BortError(
                    f"agora.grid.{key}={values} must be {'at least' if zero else 'above'} 0"
                )
        if max(self.warmup or [0]) >= 1:
            raise BortError(f"agora.grid.warmup={self.warmup} must be below 1")


@dataclass
class AgoraConfig:
    """Rounds of training, mistakes, and rows generated from them (arXiv 2010.07990)."""

    teacher: str | None = None  # S: a model fine-tuned on the task; null: the run's teacher becomes
    mlm: str | None = None  # of generator=mlm; null: the encoder of S, or else the candidate
    grid: ThetaConfig = field(default_factory=ThetaConfig)
    rounds: int | None = None  # at most; null: until Θ is used up
    prune: str = "half"  # the worse half of Θ each round, or lcs (the original)
    replays: int = 1  # rounds in all that may be done again because E became worse
    generator: str = "mlm"  # or nearest (by the candidate's embeddings), edit (deletion and swap)
    mistakes: str = "train"  # rows are made from mistakes on D; eval: on E, as published
    rate: float = 0.15  # share of a row's words that a generator changes
    samples: int | None = None  # rows generated a round; null: a quarter of D
    labels: str = "hard"  # S's answer; soft: S's probabilities
    # of S, below which a row with a hard label is dropped; null: what S has on 3/4 of E's rows
    confidence: float | None = None
    eval_fraction: float = 0.2  # of the training rows: E
    guard: float = 2 / 3  # balanced accuracy on E that S needs
    training: str | None = None  # the one that a launcher's job does; not for users

    def __post_init__(self) -> None:
        one_of("agora.prune", self.prune, ("half", "lcs"))
        one_of("agora.generator", self.generator, ("mlm", "nearest", "edit"))
        one_of("agora.mistakes", self.mistakes, ("train", "eval"))
        one_of("agora.labels", self.labels, ("hard", "soft"))
        at_least("agora.replays", self.replays, 0)
        for key in ("rounds", "samples"):
            if getattr(self, key) is not None:
                at_least(f"agora.{key}", getattr(self, key), 1)
        for key in ("confidence", "guard"):
            at_least(f"agora.{key}", getattr(self, key) or 0.0, 0, below=1)
        for key in ("rate", "eval_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise BortError(f"agora.{key}={getattr(self, key):g} must be above 0 and below 1")


@dataclass
class LoggerConfig:
    """Where metrics go besides the run folder's metrics.csv, which is always written."""

    name: str = "csv"  # csv, wandb, tensorboard, none
    mode: str = "auto"  # of wandb: auto (offline without a key), online, offline
    project: str = "bort"
    job_type: str | None = None  # of wandb; a search has one run of its own and `candidate`s
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        one_of("logger.name", self.name, ("csv", "wandb", "tensorboard", "none"))
        one_of("logger.mode", self.mode, ("auto", "online", "offline"))
        if self.name == "tensorboard" and find_spec("tensorboard") is None:
            raise BortError("logger=tensorboard needs the package tensorboard; pip install it")


@dataclass
class TrainConfig:
    """All settings of `train.py`; `trainer`, `callbacks` name Lightning's classes by `_target_`."""

    JOBS: ClassVar[tuple[str, ...]] = ("pretrain", "compare", "finetune", "agora")
    job: str = "pretrain"
    arch: ArchConfig = MISSING
    arch_file: str | None = (
        None  # a YAML with depth, heads, hidden, intermediate (a search's result)
    )
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    agora: AgoraConfig = field(default_factory=AgoraConfig)
    task: str | None = None  # of fine-tuning: suite/name, as in glue/rte
    model: str | None = None  # what is fine-tuned: a run folder, a Hugging Face folder, a hub name
    head: str = "linear"  # of fine-tuning: linear (the paper's) or bort (the released code's)
    patience: int | None = None  # validations without a better score after which it stops
    init: str = "default"  # default (for small models), paper, teacher
    dropout: float = 0.0
    checkpoint_every: int = 500  # optimizer steps between checkpoints
    compile: bool = False  # torch.compile the model
    trainer: Any = None
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    callbacks: Any = None
    seed: int = 0
    name: str = MISSING
    resume: bool = True  # false: start again and replace what the folder holds
    dry_run: bool = False
    output_dir: str = MISSING

    def __post_init__(self) -> None:
        if isinstance(self.arch, ArchConfig):
            self.arch = self.arch.to_arch()
        if isinstance(self.teacher.arch, ArchConfig):
            self.teacher = replace(self.teacher, arch=self.teacher.arch.to_arch())
        one_of("job", self.job, self.JOBS)
        one_of("init", self.init, INITS)
        one_of("head", self.head, ("linear", "bort"))
        if self.fits_task:
            self._check_task()
        else:
            self._set_rates()
        if not self.fits_task and len(self.data.texts) > 1:
            raise BortError("data.text names two columns, which task=custom takes; name one here")
        if self.data.source == "text" and not (self.data.path or self.dry_run):
            raise BortError("data=text needs data.path=FILE, FOLDER or the name of a hub data set")
        if self.patience is not None:
            at_least("patience", self.patience, 1)
        if not re.fullmatch(r"[A-Za-z0-9_.:+-]+", self.name) or set(self.name) == {"."}:
            raise BortError(
                f"name={self.name!r} cannot name a run folder; use letters, digits and _ - . : +"
            )
        if not re.fullmatch(r"[A-Za-z0-9_.:/+-]+", self.output_dir):  # goes after model= unquoted
            raise BortError(
                f"output_dir={self.output_dir!r} must consist of letters, digits and _ - . / : +"
            )
        at_least("dropout", self.dropout, 0, below=1)
        at_least("checkpoint_every", self.checkpoint_every, 1)
        at_least("seed", self.seed, 0, below=2**32)
        # a comparison says itself that it needs a number of steps
        stops = bool(self.patience or self.callbacks) or self.job == "compare"
        check_trainer_numbers(self.trainer or {}, stops)

    def _check_task(self) -> None:
        if self.job == "agora" and str((self.trainer or {}).get("devices", 1)) != "1":
            raise BortError("experiment=agora trains on one device; use trainer.devices=1")
        if self.job == "agora" and self.patience is not None:
            raise BortError("patience is for experiment=finetune: Agora's arms get equal steps")
        if self.task == "custom" and not self.data.train and not self.model:
            raise BortError(
                "task=custom needs model=FOLDER and data.train=FILE (csv, tsv, jsonl or parquet), "
                "data.text=COLUMN, data.label=COLUMN"
            )
        if not self.task or not (self.model or self.task == "docstrings"):
            raise BortError(
                f"task={self.task} needs model=FOLDER, as in task=glue/rte "
                "model=runs/kd_pretrain/first data.root=glue_data"
            )
        if self.task == "custom" and not self.data.train:
            raise BortError(
                "task=custom needs data.train=FILE (csv, tsv, jsonl or parquet), data.text=COLUMN "
                "and data.label=COLUMN"
            )
        if self.task == "custom" and self.data.label in self.data.texts:
            raise BortError(
                f"data.label={self.data.label} is the text, too; name the label's column"
            )

    def _set_rates(self) -> None:
        """Give the rates that were left open the width's own."""
        if self.optim.lr is None:
            self.optim = replace(self.optim, lr=width_lr(self.arch.hidden))
        if self.teacher.lr is None:
            self.teacher = replace(self.teacher, lr=width_lr(self.teacher.arch.hidden))
        if self.job == "compare" and self.compare.lrs is None:
            self.compare = replace(self.compare, lrs=[self.optim.lr])

    def training(self, **changes: Any) -> "TrainConfig":
        """The settings of one training with these changes, also out of a search's."""
        own = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        return TrainConfig(
            **own
            | {"job": "pretrain", "compare": CompareConfig(), "agora": AgoraConfig()}
            | changes
        )

    @property
    def fits_task(self) -> bool:
        return self.job in ("finetune", "agora")

    @property
    def needs_teacher(self) -> bool:
        if self.fits_task:
            return False
        return self.distill.w_kd > 0 or self.job == "compare" or self.init == "teacher"


ConfigStore.instance().store(name="train_schema", node=TrainConfig)


CONF = Path(__file__).parents[1] / "conf"  # in a wheel
if not CONF.is_dir():
    CONF = Path(__file__).parents[2] / "conf"


def find_local_settings() -> Path | None:
    """Return `conf` of the folder that we are in, if it has a `local` and is not bort's own."""
    folder = Path("conf")
    is_local = (folder / "local").is_dir() and not folder.samefile(CONF)
    return folder if is_local else None


def parse(cfg: DictConfig, schema: type = TrainConfig) -> Any:
    """The composed configuration as dataclasses; every wrong combination is raised here."""
    cfg = cfg.copy()
    if cfg.get("arch_file"):
        OmegaConf.update(cfg, "arch", _arch_from_file(Path(cfg.arch_file)))
    if cfg.get("job") in ("finetune", "agora") and cfg.task == "docstrings" and cfg.data.train:
        cfg.task = "custom"  # who names files means them, not the task that needs none
    OmegaConf.resolve(cfg)
    # Once more through the schema: a key that was added by `+` is a mistake too.
    plain = OmegaConf.to_container(cfg)
    _check_finite("", {key: value for key, value in plain.items() if key != "callbacks"})
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))


def _check_finite(key: str, value: Any) -> None:
    """Raise BortError for an infinite number or a NaN anywhere below `key`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_finite(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            _check_finite(key, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BortError(f"{key}={value:g} is no finite number; give one")


def _arch_from_file(path: Path) -> dict:
    """The architecture in a YAML such as a search's optimum.yaml (bare, or under `arch`)."""
    if not path.is_file():
        hint = nearest_path(path, path.parent.glob("*.yaml"))
        raise BortError(f"arch_file={path} does not exist{hint}")
    try:
        content = read_yaml(path)
    except BortError:
        content = None
    table = content.get("arch", content) if isinstance(content, dict) else None
    # numbers only: the text of an interpolation must not reach a configuration
    if not isinstance(table, dict) or not all(
        type(table.get(key)) in (int, float) for key in Arch.KEYS
    ):
        raise BortError(
            f"arch_file={path} is not an architecture; it needs the four keys depth, heads, hidden "
            "and intermediate, each with a number"
        )
    return {key: table[key] for key in Arch.KEYS}


# What may differ between a run and its continuation: none of these changes a weight.
FREE_KEYS = {"resume", "dry_run", "logger", "output_dir", "name", "checkpoint_every"}
# Lightning's callbacks that end a training early, or set or average its weights; others look on.
ACTIVE_CALLBACKS = {
    "EarlyStopping",
    "Timer",
    "GradientAccumulationScheduler",
    "StochasticWeightAveraging",
    "WeightAveraging",
    "EMAWeightAveraging",
    "LearningRateFinder",
    "BatchSizeFinder",
}
CUSTOM_KEYS = ("train", "val", "test", "label", "kind")  # of data: only fine-tuning reads them
FREE_TRAINER_KEYS = {"enable_progress_bar", "log_every_n_steps", "profiler", "default_root_dir"}


def settings(run: TrainConfig) -> dict[str, Any]:
    """Flat `key: value` of all that decides a run's result, to compare it with its continuation."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    values = {k: v for k, v in asdict(run).items() if k not in FREE_KEYS}
    walk("", values | {"callbacks": _active_callbacks(run.callbacks)})
    free = {f"trainer.{key}" for key in FREE_TRAINER_KEYS} | {"data.workers"}
    if not run.fits_task:
        free |= {f"data.{key}" for key in CUSTOM_KEYS}
    other = "agora.training" if run.job == "agora" else "agora."
    return {k: v for k, v in flat.items() if k not in free and not k.startswith(other)}


def _active_callbacks(callbacks: dict | None) -> dict:
    """Those of the callbacks that decide how a training ends."""

    def kind(callback: Any) -> str:
        return str(callback.get("_target_")).split(".")[-1] if isinstance(callback, dict) else ""

    return {k: v for k, v in (callbacks or {}).items() if kind(v) in ACTIVE_CALLBACKS}


def fingerprint(values: dict[str, Any]) -> str:
    """16 hexadecimal digits that name these values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(run: TrainConfig) -> str:
    """One line: what will be trained, from what, on what, for how long."""
    trainer, data = run.trainer or {}, run.data
    if run.fits_task:
        epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps") or -1
        budget = "no limit" if epochs in (None, -1) else f"{epochs} epoch{'s' * (epochs != 1)}"
        if steps > 0:
            budget = counted(steps, "step")
        model = run.model or f"an encoder {run.arch} of its own"
        task = data.train if run.task == "custom" else run.task
        return f"{model} on {task}, {budget} of {counted(data.batch_size, 'row')}"
    teacher = run.teacher.name or f"{run.teacher.arch} (trained first unless cached)"
    how = f"learns from teacher {teacher}" if run.distill.w_kd else "learns by plain MLM"
    if run.job == "compare":
        how = f"with and without teacher {teacher}"
    text = data.path or "text to be named" if data.source == "text" else "embedded docstrings"
    batch = data.batch_size * (trainer.get("accumulate_grad_batches") or 1)
    steps = counted(trainer.get("max_steps", -1), "step")
    budget = f"{steps} of {batch} × {data.length} tokens"
    if trainer.get("max_time"):
        budget = f"{trainer['max_time']} (DD:HH:MM:SS) of {batch} × {data.length} tokens a step"
    rates = run.compare.lrs if run.job == "compare" else [run.optim.lr]
    return f"{run.arch} {how} on {text}, {budget}, lr {', '.join(f'{lr:.3g}' for lr in rates)}"


def named_models(run: TrainConfig) -> dict[str, str]:
    """The names of the models that a run reads, by the setting that holds them."""
    names = {"model": run.model} if run.fits_task else {}
    if run.needs_teacher or run.job == "agora":
        names["teacher.name"] = run.teacher.name
    if run.job == "agora":
        names |= {"agora.teacher": run.agora.teacher, "agora.mlm": run.agora.mlm}
    return {key: name for key, name in names.items() if name}
