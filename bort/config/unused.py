"""Settings that a job cannot use: who gives one of them is told so in one line, before any work.

A default, a file of conf/ and conf/local may name what one of several jobs needs; only what stands
on the command line is looked at. Nothing heavy is imported here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from bort.config.optim import WSD
from bort.config.train import EMBED
from bort.errors import BortError

Settings = Any  # a TrainConfig or BenchmarkConfig: what the command line was composed to
GROUPS = {"data": "data.source", "logger": "logger.name", "optim": "optim.name"}


@dataclass(frozen=True)
class Rule:
    """Keys, or what several of them begin with, and when a job does not read them.

    why: completes the sentence that begins with the key.
    """

    keys: str
    when: Callable[[Settings], bool]
    why: str

    def concerns(self, key: str) -> bool:
        """Whether the rule is about this key."""
        return any(key == name or key.startswith(f"{name}.") for name in self.keys.split())


def is_pretraining(run: Settings) -> bool:
    """Whether a masked LM is trained: alone, in a comparison or as a candidate of a search."""
    return not run.fits_task


def is_on_table(run: Settings) -> bool:
    """Whether a model is trained on a table of the user's own, of rows with labels."""
    is_table = run.fits_task and run.task in ("custom", EMBED)
    return is_table and not run.learns_embeddings


def is_on_suite(run: Settings) -> bool:
    """Whether a classifier is trained on a task of a suite."""
    return run.fits_task and run.task not in ("custom", "docstrings")


def is_embedding(run: Settings) -> bool:
    """Whether what is trained embeds texts."""
    return run.fits_task and run.task == EMBED


def is_teacher_trained(run: Settings) -> bool:
    """Whether a teacher without a name may have to be trained first."""
    needs_own = run.needs_teacher or (run.job == "agora" and not run.agora.teacher)
    return needs_own and run.teacher.name is None


def is_teacher_ignored(run: Settings) -> bool:
    """Whether nothing is taken from the teacher that is named, not even its tokenizer."""
    if run.job == "agora":
        return bool(run.agora.teacher)
    if run.teaches_task:
        return False
    return run.fits_task or not (run.needs_teacher or run.data.tokenizer == "auto")


def takes_pool(run: Settings) -> bool:
    """Whether rows of Agora are taken from texts without labels."""
    return run.job == "agora" and run.agora.generator == "pool"


def is_halving(run: Settings) -> bool:
    """Whether candidates of a search are trained by successive halving."""
    return run.job == "search" and run.search.halving


def is_task_search(run: Settings) -> bool:
    """Whether candidates of a search learn a task."""
    return run.job == "search" and run.fits_task


TEXT = "data.path data.packing data.mask_rate data.tokenizer data.vocab_size "
RULES = (
    Rule("agora", lambda run: run.job != "agora", "is for experiment=agora"),
    Rule("compare", lambda run: run.job != "compare", "is for experiment=kd_vs_mlm"),
    Rule(
        "model",
        lambda run: run.job in ("compare", "search"),
        "cannot be used: this job trains from fresh weights; experiment=mlm_pretrain and "
        "kd_pretrain continue a model",
    ),
    Rule(
        "task head patience data.metric data.windows data.window_stride",
        is_pretraining,
        "is for experiment=finetune and agora, and for search.proxy=task",
    ),
    Rule(
        "patience data.metric",
        is_task_search,
        "is not read: a candidate of a search takes search.n steps",
    ),
    Rule(
        "data.window_stride",
        lambda run: not run.data.windows,
        "is for data.windows=mean, which divides long texts",
    ),
    Rule("optim.class_weights", lambda run: run.job != "finetune", "is for experiment=finetune"),
    Rule("head", is_embedding, "is not chosen for task=embed: an embedding is the mean state"),
    Rule("data.kind", is_embedding, "is not chosen for task=embed: pairs have a number"),
    Rule(
        "data.windows data.window_stride",
        is_embedding,
        "cannot be used: an embedding is that of a text's first data.length tokens",
    ),
    Rule(
        "patience data.metric",
        lambda run: run.learns_embeddings,
        "is not read: task=embed ends with the last step of its budget",
    ),
    Rule(
        "data.root data.train data.val data.test data.label data.kind",
        is_pretraining,
        "is for experiment=finetune and agora; a pre-training reads data=text data.path=TEXT",
    ),
    Rule(
        "data.unlabelled data.unlabelled_rows data.split_sentences",
        lambda run: not (run.teaches_task or takes_pool(run)),
        "is for experiment=kd_finetune, search.proxy=task and agora.generator=pool",
    ),
    Rule(
        "distill.w_ce distill.kd_loss distill.guard distill.control",
        lambda run: not run.teaches_task,
        "is for experiment=kd_finetune",
    ),
    Rule("distill.control", is_task_search, "is for experiment=kd_finetune"),
    Rule(
        "distill.w_ce distill.kd_loss distill.guard distill.control distill.temperature",
        lambda run: run.learns_embeddings,
        "is not read: an embedding is learnt by distill.w_kd and w_relation",
    ),
    Rule("agora.rate", takes_pool, "is not read: agora.generator=pool changes no words"),
    Rule(
        "data.unlabelled_rows data.split_sentences",
        lambda run: not run.data.unlabelled,
        "is for data.unlabelled=FILE",
    ),
    Rule(
        "distill.temperature",
        lambda run: run.teaches_task and run.distill.kd_loss != "kl",
        "is for distill.kd_loss=kl",
    ),
    Rule(
        "distill.w_relation",
        lambda run: run.teaches_task and not run.learns_embeddings,
        "is for pre-training; a task is learnt by distill.w_kd and w_ce",
    ),
    Rule(
        "distill.w_mlm distill.w_hidden distill.relation_layer distill.relation_heads "
        "distill.states_gb",
        lambda run: run.teaches_task,
        "is for pre-training; a task is learnt by distill.w_kd and w_ce",
    ),
    Rule(
        TEXT + "data.source data.val_fraction data.val_sequences",
        lambda run: run.fits_task,
        "is for pre-training; a task reads data.train=FILE or data.root=FOLDER",
    ),
    Rule(
        "data.sample_by",
        lambda run: run.fits_task and not run.data.unlabelled,
        "is for pre-training; a task reads data.train=FILE or data.root=FOLDER",
    ),
    Rule("compile", lambda run: run.fits_task, "is for pre-training"),
    Rule(
        "distill",
        lambda run: run.fits_task and not run.teaches_task,
        "is for pre-training and experiment=kd_finetune",
    ),
    Rule(
        "init init_layers",
        lambda run: bool(run.model),
        "is not read: all weights are those of model=",
    ),
    Rule(
        "data.vocab_size",
        lambda run: is_pretraining(run) and bool(run.model),
        "is not read: model= has a vocabulary of its own",
    ),
    Rule(
        "arch arch_file",
        lambda run: bool(run.model),
        "cannot be used: model= has an architecture of its own",
    ),
    Rule(
        "arch",
        lambda run: bool(run.arch_file),
        "is set by arch_file=; leave one of them out",
    ),
    Rule(
        "data.root",
        lambda run: not is_on_suite(run),
        "is for the tasks of a suite, as in task=glue/rte",
    ),
    Rule(
        "data.train data.val data.test data.label data.kind",
        lambda run: not is_on_table(run),
        "is for task=custom",
    ),
    Rule(
        "data.text",
        lambda run: run.fits_task and not is_on_table(run) and not run.data.unlabelled,
        "is for task=custom",
    ),
    Rule(
        "data.text data.sample_by",
        lambda run: is_pretraining(run) and run.data.source != "text",
        "is for text of your own: data=text data.path=TEXT",
    ),
    Rule(
        "teacher.name",
        is_teacher_ignored,
        "cannot be used: nothing is distilled here, and nothing taken from a teacher",
    ),
    Rule(
        "teacher.arch teacher.max_steps teacher.batch_size teacher.lr",
        lambda run: not is_teacher_trained(run),
        "is for a teacher that is trained here first; this job trains none",
    ),
    Rule(
        "distill.temperature",
        lambda run: run.job == "pretrain" and run.distill.w_kd == 0,
        "is for distillation, distill.w_kd above 0",
    ),
    Rule(
        "distill.w_hidden distill.w_relation distill.relation_layer distill.relation_heads "
        "distill.states_gb",
        lambda run: run.job in ("compare", "search"),
        "is for experiment=kd_pretrain",
    ),
    Rule(
        "distill.relation_layer distill.relation_heads",
        lambda run: not run.distill.w_relation,
        "is for distill.w_relation above 0",
    ),
    Rule(
        "distill.states_gb",
        lambda run: not (run.distill.w_hidden or run.distill.is_open),
        "is for distill.w_hidden above 0",
    ),
    Rule(
        "init_layers",
        lambda run: run.init not in ("teacher", None),
        "is for init=teacher",
    ),
    Rule(
        "optim.muon_ratio",
        lambda run: run.optim.name != "muon",
        "is for optim=muon",
    ),
    Rule(
        "optim.decay",
        lambda run: run.optim.schedule != WSD and not is_halving(run),
        "is for optim.schedule=wsd",
    ),
    Rule(
        "optim.schedule",
        lambda run: run.optim.schedule != WSD and is_halving(run),
        "cannot be used: search.halving continues trainings, which takes optim.schedule=wsd",
    ),
    Rule(
        "optim.lr",
        lambda run: run.job == "compare" and run.compare.lrs != [run.optim.lr],
        "is not read here: compare.lrs=[…] are the rates of experiment=kd_vs_mlm",
    ),
    Rule(
        "trainer.max_time trainer.max_epochs",
        lambda run: run.job == "compare",
        "cannot be used: the arms of experiment=kd_vs_mlm get trainer.max_steps=",
    ),
    Rule(
        "trainer.max_steps trainer.max_epochs trainer.max_time trainer.val_check_interval",
        lambda run: run.job == "search",
        "is not read by a search: search.n= is the number of steps of a candidate",
    ),
)
LATENCY_RULES = (
    Rule(
        "latency.path",
        lambda run: run.latency.source != "table",
        "is for latency=table",
    ),
    Rule(
        "latency.shapes latency.engine",
        lambda run: run.latency.source != "fitted",
        "is for latency=fitted",
    ),
    Rule(
        "latency.threads latency.rounds",
        lambda run: run.latency.source in ("analytic", "table"),
        "is for a latency that is measured here, as in latency=measured",
    ),
    Rule(
        "latency.device",
        lambda run: (
            "measured" not in (run.latency.source, run.latency.engine)
            or run.latency.source in ("analytic", "table", "onnx", "onnx_int8")
        ),
        "is for latency=measured",
    ),
    Rule(
        "latency.batch latency.length latency.lengths latency.weights",
        lambda run: run.latency.source == "table",
        "is that of the table",
    ),
    Rule(
        "latency.length",
        lambda run: run.latency.lengths is not None,
        "is replaced by latency.lengths=[…]; leave one of them out",
    ),
)
BENCHMARK_RULES = (
    Rule("grid.vocab_size", lambda run: True, "is for search.py; use vocab_size=NUMBER"),
    Rule(
        "latency.lengths latency.weights",
        lambda run: not run.grid.points()[0],
        "is for a search and for grid=, whose latency is a mean; use lengths=[…]",
    ),
    Rule("archs", lambda run: bool(run.grid.points()[0]), "cannot be used beside grid="),
    Rule(
        "latency.batch",
        lambda run: run.compares and run.batches is not None,
        "is replaced by batches=[…]; leave one of them out",
    ),
    Rule(
        "latency.length",
        lambda run: run.compares and run.lengths is not None,
        "is replaced by lengths=[…]; leave one of them out",
    ),
    Rule("memory", lambda run: not run.compares, "is for models= and engines="),
    Rule(
        "vocab_size",
        lambda run: not run.archs and not run.grid.points()[0],
        "is that of archs= and grid=; models= have their own",
    ),
)


WITHOUT_TEACHER = ("mlm_pretrain", "teacher_pretrain")  # experiments that distil nothing


def refuse_distillation(run: Settings, experiment: str) -> None:
    """Raise BortError for a loss that needs a teacher in an experiment that has none."""
    if experiment not in WITHOUT_TEACHER or not run.distill.asks_teacher:
        return
    weights = {key: getattr(run.distill, key) for key in ("w_kd", "w_hidden", "w_relation")}
    key, weight = next(((key, f"{w:g}") for key, w in weights.items() if w), ("w_kd", "null"))
    raise BortError(
        f"distill.{key}={weight} is for experiment=kd_pretrain: experiment={experiment} trains "
        "without a teacher"
    )


def refuse_unused(
    settings: Settings, overrides: Iterable[str], rules: Iterable[Rule] = RULES
) -> None:
    """Raise BortError for the first of a command line's settings that this job cannot use.

    settings: what the overrides were composed to; overrides: `key=value`, as Hydra was given them.
    """
    rules = tuple(rules)
    for word in overrides:
        for key in _list_keys(word):
            for rule in rules:
                if rule.concerns(key) and rule.when(settings):
                    is_plain = word.lstrip("+").startswith(f"{key}=")
                    setting = word if is_plain else f"{word}: {key}"
                    raise BortError(f"{setting} {rule.why}")


def _list_keys(word: str) -> Iterator[str]:
    """The full names of what an override sets; a whole group stands for the key that it chooses.

    Hydra's parser takes 2 ms a word, and only a value with keys of its own needs it.
    """
    key, _, text = word.partition("=")
    key = key.strip().lstrip("+").split("@")[0]
    if key.startswith("~") or key.split(".")[0].split("/")[0] == "hydra":
        return
    value = None
    if "{" in text:
        override = OverridesParser.create().parse_override(word)
        value = None if override.is_sweep_override() else override.value()
    yield from _flatten_keys(GROUPS.get(key, key) if not isinstance(value, dict) else key, value)


def _flatten_keys(key: str, value: Any) -> Iterator[str]:
    """The key of a value, or those of the values in it."""
    if not isinstance(value, dict) or not value:
        yield key
        return
    for name, inner in value.items():
        yield from _flatten_keys(f"{key}.{name}", inner)
