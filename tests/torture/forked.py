"""Run commands of bort in processes that are forked after torch was loaded once."""

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]


def load() -> None:
    """Import the large libraries, so that the forked processes need not."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.path[:0] = [str(ROOT), str(ROOT / "bort" / "plugins")]
    import transformers  # noqa: F401
    from lightning import pytorch  # noqa: F401

    from bort import report  # noqa: F401
    from bort.export import run as export  # noqa: F401
    from bort.finetuning import recipe as finetune  # noqa: F401
    from bort.search import optimum, sweep  # noqa: F401


def start(command: list[str], folder: Path, log: Path, prepare: Callable[[], None]) -> int:
    """Run `train.py …`, `search.py …` or `-m bort.NAME …` in a folder; returns its process number.

    log: what it prints; prepare: called in the new process, before the command.
    """

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        _run(command)

    return start_process(work, folder, log)


def start_process(work: Callable[[], None], folder: Path | str, log: Path) -> int:
    """Do some work in a forked process, in a folder; returns its process number.

    log: gets what it prints. The process ends with the exit code of a command that does this work.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(command: list[str]) -> None:
    if command[0] == "-m":
        sys.modules.pop(command[1], None)  # or runpy warns
        sys.argv = [command[1], *command[2:]]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / command[0]), *command[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def end(process: int) -> int:
    """Wait for a process; its exit code, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def temporaries(folder: Path) -> list[str]:
    """Names below a folder that no command may leave: half-written files, locks."""
    from bort.files.ownership import TEMPORARY

    names = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    return [
        name
        for name in names
        if TEMPORARY.fullmatch(Path(name).name) or name.endswith((".lock", "bort-lock"))
    ]


def run_script(main: Callable[..., int], description: str) -> NoReturn:
    """End this process with what `main` returns; `count=40 seed=1` are its numbers.

    `--help` prints the description instead.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(description)
        sys.exit()
    options = dict(word.split("=") for word in sys.argv[1:])
    sys.exit(main(**{key: int(value) for key, value in options.items()}))
