"""The border to the shell: first line, exit codes, and one line for a user's mistake.

Nothing heavy is imported here: `--help`, `--cfg job` and completion pass through.
"""

import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import NoReturn, TypeVar

from bort.config.command_line import (
    asks_for_help,
    check_options,
    format_help,
    parse_command,
    refuse_option,
)
from bort.config.hydra_errors import explain
from bort.console import is_one_command, show_log
from bort.errors import BortError, shorten
from bort.machine import QUOTA_THREADS, count_usable_cores, read_cpu_quota

Settings = TypeVar("Settings")
HYDRA_FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p",
    "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp",
    "--config-name", "-cn", "--config-dir", "-cd", "--info", "-i",
)  # fmt: skip
# Not among them: --experimental-rerun, which unpickles the file that it is given.
LONGEST_LINE = 200  # characters of a line about a mistake

STOPPED = "stopped; the same command with the same name= starts or resumes"
# Programs whose work resumes when they are called again; the others are short.
RESUMED = ("train.py", "search.py", "bort train", "bort search")
RESUMED += ("bort.pipeline", "bort pipeline")
_PROGRAM = ["bort"]  # the name of what runs, as lines about mistakes begin with it


def program() -> str:
    """How this program is called in the lines that it prints: `train.py`, `bort train`."""
    return _PROGRAM[0]


def run(main: Callable[[], object], name: str) -> None:
    """Run a Hydra main function; a user's mistake prints one line and exits with 1.

    SIGTERM ends with 143 and Ctrl-C with 130. Any other exception is a bug: its trace shows.
    """

    def start() -> None:
        for flag in {"-m", "--multirun"} & set(sys.argv[1:]):  # argparse takes it at the ends only
            sys.argv.remove(flag)
            sys.argv.insert(1, flag)
        _check_flags(sys.argv[1:], name)
        main()

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing and exiting
    prepare_process()
    _guard(start, name)


def run_command(
    schema: type[Settings],
    main: Callable[[Settings], object],
    name: str,
    parse: Callable[[type[Settings], list[str]], Settings] = parse_command,
    prepares: bool = True,
) -> None:
    """Run a command that is no program of Hydra's with the settings of its command line.

    `--help` prints what the schema says of itself, and nothing is run. parse: makes the settings
    of the words; prepares: whether OpenMP and the screen are set up as `prepare_process` does it.
    """
    words = sys.argv[1:]
    if is_one_command():
        name = name.replace(".", " ")  # `bort predict`, as it was typed

    def start() -> None:
        if asks_for_help(words):
            print(format_help(schema))
            return
        check_options(schema, words)
        main(parse(schema, words))

    if prepares:
        prepare_process()
    _guard(start, name)


def _guard(start: Callable[[], object], name: str) -> None:
    """Call `start`; what ends it becomes an exit code and at most one line."""
    _PROGRAM[0] = name
    show_log()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: stop(143, _stopped(name).lstrip()))
    try:
        start()
    except KeyboardInterrupt:
        stop(130, _stopped(name))
    except BrokenPipeError:
        os._exit(0)  # `| head` has seen enough
    except Exception as error:
        if (line := mistake(error)) is None:
            raise
        stop(1, f"{name}: {line}")
    finally:
        _release_folders()


def _release_folders() -> None:
    """Remove folders that were reserved and not used; who reserves one has loaded bort.files.locks.

    `--help`, `--cfg` and completion reserve none, and load less without it.
    """
    if (locks := sys.modules.get("bort.files.locks")) is not None:
        locks.release()


def prepare_process() -> None:
    """Set what a program needs before torch is loaded: threads, memory, and a screen that prints.

    OpenMP's threads spin while they wait for each other by default, and on cores that others use
    too a step then takes many times as long; in a container with a quota of processor time there
    are no more of them than it pays for. Large tensors are allocated in pages of 2 MiB, which the
    system clears in a fraction of the time of small pages. What the user has chosen stays. Signs
    that the screen's encoding does not have are printed as question marks.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if read_cpu_quota() is not None and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = os.environ[QUOTA_THREADS] = str(count_usable_cores())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _stopped(name: str) -> str:
    return f"\n{name}: {STOPPED if name in RESUMED else 'stopped'}"


def _leave(name: str) -> Callable:
    """A handler of signals that ends the process at once."""

    def leave(number: int, _) -> None:
        _release_folders()
        print(_stopped(name), file=sys.stderr, flush=True)
        os._exit(128 + number)

    return leave


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Around the import of large packages: Ctrl-C and SIGTERM end the process at once.

    An exception in the middle of one leaves it half imported, and some swallow it. Python's search
    for cyclic garbage waits until the end, which saves a fifth of the time: what is imported stays.
    """
    leave = _leave(name)
    numbers = (signal.SIGINT, signal.SIGTERM)
    numbers = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # a launcher's; only the main one gets signals
    before = {number: signal.signal(number, leave) for number in numbers}
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except (ImportError, SystemError) as error:  # what some packages say where memory is limited
        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            raise
        raise MemoryError from error
    finally:
        if collects:
            gc.enable()
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopped(SystemExit):
    """The end of the process after a line that says why: it needs no other one."""


def stop(code: int, line: str) -> None:
    """Print a line on standard error and end the process with this exit code."""
    start = "\n" * line.startswith("\n")  # after Ctrl-C the terminal shows ^C
    print(start + shorten(line, LONGEST_LINE, keep_end=True), file=sys.stderr, flush=True)
    raise Stopped(code)


@contextmanager
def resumable(name: str) -> Iterator[None]:
    """Around work that a signal ends after a checkpoint: the last line says how it resumes.

    name: that of the run.
    """
    try:
        yield
    except Stopped:
        raise  # it has said so itself
    except SystemExit as stopped:
        stop(stopped.code, f"{program()}: stopped; the same command with name={name} resumes")


def _check_flags(arguments: list[str], program: str) -> None:
    """Raise BortError for an option that is not Hydra's, or one without what belongs to it.

    argparse alone would print its usage and exit with 2.
    """
    for number, argument in enumerate(arguments, start=1):
        flag = argument.split("=")[0]
        if argument.startswith("-") and flag not in HYDRA_FLAGS and not argument.startswith("-p"):
            raise BortError(refuse_option(argument, arguments[number:], _settings_of(program)))
    from hydra._internal.utils import get_args_parser  # loaded by Hydra's programs anyway

    parser = get_args_parser()
    parser.error = _refuse_options
    options = parser.parse_args([word for word in arguments if word != "--version"])
    if options.experimental_rerun is not None:  # by a shortened name
        raise BortError("--experimental-rerun unpickles a file, which bort does not do")


def _settings_of(program: str) -> dict[str, str]:
    """Every name of a setting of a program that Hydra reads, and where it stands; else none."""
    from bort.config import search as search_config
    from bort.config.compose import CONF
    from bort.config.train import TrainConfig
    from bort.files.untrusted import read_yaml

    programs = {"train.py": TrainConfig, "search.py": search_config.SearchRunConfig}
    programs |= {f"bort {name.removesuffix('.py')}": schema for name, schema in programs.items()}
    if (schema := programs.get(program)) is None:
        return {}
    keys = {item.name: item.name for item in fields(schema)}
    if "trainer" in keys:
        for key in read_yaml(CONF / "trainer" / "default.yaml"):
            keys.setdefault(key, f"trainer.{key}")
    for item in fields(schema):
        for inner in fields(item.type) if is_dataclass(item.type) else ():
            keys.setdefault(inner.name, f"{item.name}.{inner.name}")
    return keys


def _refuse_options(reason: str) -> NoReturn:
    raise BortError(f"{reason}; --help shows the settings")


def mistake(error: BaseException) -> str | None:
    """One line for a user's mistake, Hydra's and OmegaConf's own included; None for a bug."""
    line = explain(error)
    return None if line is None else shorten(line, LONGEST_LINE, keep_end=True)
