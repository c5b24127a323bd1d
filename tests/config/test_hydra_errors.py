"""One line for each mistake in a setting, and for what a machine has no more of."""

import errno
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bort import shell
from bort.benchmark.settings import BenchmarkConfig
from bort.config import search as search_config
from bort.config.compose import parse_settings
from bort.errors import BortError
from bort.trials.training import explain_failure

ROOT = Path(__file__).resolve().parents[2]


def mistake(*overrides: str) -> str | None:
    with (
        pytest.raises(Exception) as error,
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
    ):
        parse_settings(compose("train", ["name=test", "output_dir=x", *overrides]))
    return shell.mistake(error.value)


MISTAKES = [
    ("experiment=kd_pretain", "experiment=kd_pretain is unknown; did you mean 'kd_pretrain'? (kno"),
    ("arch=boort", "arch=boort is unknown; did you mean 'bort'? (known: bert_base, "),
    ("logger=wanb", "logger=wanb is unknown; did you mean 'wandb'? (known: csv, none, te"),
    ("debug=zzz", "debug=zzz is unknown (known: default, overfit, profiler)"),
    ("optim=", "optim= is unknown (known: adamw, muon)"),
    ("archh=tiny", "archh is not a setting; did you mean 'arch'?"),
    ("optim.lrr=3", "optim.lrr is not a setting; did you mean 'optim.lr'?"),
    ("lr=3", "lr is not a setting; did you mean 'optim.lr'?"),
    ("max_steps=3", "max_steps is not a setting; did you mean 'trainer.max_steps'?"),
    ("data.lenght=3", "data.lenght is not a setting; did you mean 'data.length'?"),
    ("trainer.max_stps=3", "trainer.max_stps is not a setting; did you mean 'trainer.max_steps'?"),
    ("teacher.nme=x", "teacher.nme is not a setting; did you mean 'teacher.name'?"),
    ("data@x=text", "data@x is not a setting; did you mean 'data'?"),
    ("+foo=3", "foo is not a setting; known here: job, arch, arch_file, data, "),
    ("+data.xyz=3", "data.xyz is not a setting; known here: source, path, text, "),
    ("+optim.lrr=3", "optim.lrr is not a setting; did you mean 'optim.lr'?"),
    ("arch={depth: 2, hiden: 3}", "arch.hiden is not a setting; did you mean 'arch.hidden'?"),
    ("compile=maybe", "compile=maybe: the value must be true or false"),
    ("data.packing=maybe", "data.packing=maybe: the value must be true or false"),
    ("optim.lr=abc", "optim.lr=abc: Value 'abc' of type 'str' could not be converted to Float"),
    ("seed=1.5", "seed=1.5: Value '1.5' of type 'float' could not be converted to Integer"),
    ("compare.lrs=[a]", "compare.lrs=[a]: Value 'a' of type 'str' could not be converted to Fl"),
    ("compare.lrs=3", "compare.lrs=3 must be a list; write compare.lrs=[3], or compare.lrs=[a,b] "),
    ("compare.lrs='a b'", "compare.lrs='a b' must be a list; write compare.lrs=[a,b] for more"),
    ("agora.grid.seed=1", "agora.grid.seed=1 must be a list; write agora.grid.seed=[1], or agora."),
    ("data.text=5", "data.text=5 must name one column, or two as in [a,b]"),
    ("dry_run=maybe", "dry_run=maybe: "),
    ("arch.depth=null", "arch.depth=null: a value is needed here"),
    ("arch.depth=???", "arch.depth has no value; give arch.depth=…"),
    ("~arch", "arch has no value; give arch=…"),
    ("data=3", "a group takes the name of one of its files, as in arch=tiny or trainer=cpu"),
    ("name=a,b", "Ambiguous value for argument 'name=a,b'; quote the value, or add -m to run one"),
    (
        "compare.lrs=1,2",
        "Ambiguous value for argument 'compare.lrs=1,2'; quote the value, or add -m to run one job "
        "for each; a list is written [a,b]",
    ),
    ("optim.lr=[1", "optim.lr=[1 cannot be read; write key=value"),
    ("data.path", "data.path cannot be read; write key=value"),
    ("name=a=b", "name=a=b cannot be read; write key=value, with signs as 'key=\"value\"'"),
    ("optim.lr=inf", "optim.lr=inf is no finite number"),
    ("compare.lrs=[1,nan]", "compare.lrs=nan is no finite number"),
    ("trainer.gradient_clip_val=-inf", "trainer.gradient_clip_val=-inf is no finite number"),
    ("data.workers=1000", "data.workers=1,000 must be at most "),
    ("data.length=100000000", "data.length=100,000,000 must be at most 65,536"),
    ("optim.lr=${x}", "Interpolation key 'x' not found"),
    ("arch.heads=3", "arch.heads=3 does not divide arch.hidden=64; use 1, 2 or 4"),
    ("data=text", "data=text needs data.path=FILE, FOLDER or the name of a hub data set"),
    ("arch_file=no.yaml", "arch_file=no.yaml does not exist"),
    ("trainer.max_steps=abc", "trainer.max_steps=abc must be a whole number"),
    ("distill.w_kd=0", "distill.w_kd, w_mlm, w_hidden, w_relation and w_ce are all 0"),
]


@pytest.mark.parametrize(("override", "line"), MISTAKES, ids=[o for o, _ in MISTAKES])
def test_each_mistake_is_one_line(override, line):
    found = mistake(override)
    assert found.startswith(line)
    assert "\n" not in found and "use +" not in found and found == found.strip()
    assert len(found) <= 200


@pytest.mark.parametrize(
    ("command", "schema", "override", "one"),
    [
        ("benchmark", BenchmarkConfig, "models=runs/x", "models=[runs/x]"),
        ("search", search_config.SearchRunConfig, "grid.depth=2", "grid.depth=[2]"),
    ],
)
def test_lists_of_other_commands(command, schema, override, one):
    search_config.register(schema)
    with (
        pytest.raises(Exception) as error,
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
    ):
        compose(command, [override])
    key = override.partition("=")[0]
    line = f"{override} must be a list; write {one}, or {key}=[a,b] for more than one"
    assert shell.mistake(error.value) == line


def test_a_bug_keeps_its_trace():
    assert shell.mistake(KeyError("x")) is None
    assert shell.mistake(ValueError("x")) is None
    assert shell.mistake(OSError(errno.EIO, "broken disk")) is None
    assert shell.mistake(BortError("x=1 is wrong")) == "x=1 is wrong"


def test_machines_that_are_full():
    """The disk may fill up outside our own writes, memory anywhere."""
    full = OSError(errno.ENOSPC, "No space left on device", "runs/x")
    assert shell.mistake(full) == "no space left on the disk (runs/x); free some"
    wrapped = RuntimeError("worker died")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "no space left on the disk (while writing)" in shell.mistake(wrapped)
    quota = OSError(errno.EDQUOT, "Disk quota exceeded", "runs/x")
    assert shell.mistake(quota) == "no space left on the disk (runs/x); free some"
    files = OSError(errno.EMFILE, "Too many open files")
    assert shell.mistake(files).startswith("too many open files; raise their limit (ulimit -n)")
    for error in (RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, "fork")):
        assert shell.mistake(error).startswith("no more threads or processes; raise their limit")
    memory = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    words = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    )
    library = "libtorch_cpu.so: failed to map segment from shared object"
    out_of_memory = [
        *(memory, MemoryError(), RuntimeError(words), RuntimeError("std::bad_alloc")),
        *(OSError(errno.ENOMEM, "Cannot allocate memory"), ImportError(library)),
    ]
    for error in out_of_memory:
        wrapped = ValueError("while training")
        wrapped.__cause__ = error
        assert shell.mistake(wrapped).startswith("out of memory; lower data.batch_size")
        assert explain_failure(error) == "out of memory"
    assert explain_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
