"""The border to the shell: first line, exit codes, and one line for a user's mistake.

Nothing heavy is imported here: `--help`, `--cfg job` and completion pass through.
"""

import difflib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import NoReturn

from bort.config.hydra_errors import explain
from bort.console import shorten, show_log
from bort.errors import BortError
from bort.machine import cpu_quota, usable_cores

HYDRA_FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p",
    "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp",
    "--config-name", "-cn", "--config-dir", "-cd", "--info", "-i",
)  # fmt: skip
# Not among them: --experimental-rerun, which unpickles the file that it is given.
LONGEST_LINE = 200  # characters of a line about a mistake

STOPPED = "stopped; the same command with the same name= starts or goes on"
# Programs whose work goes on when they are called again; the others are short.
RESUMED = ("train.py", "search.py", "bort train", "bort search", "bort.pipeline")
_PROGRAM = ["bort"]  # the name of what runs, as lines about mistakes begin with it


def program() -> str:
    """How this program is called in the lines that it prints: `train.py`, `bort train`."""
    return _PROGRAM[0]


def run(main: Callable[[], object], name: str) -> None:
    """Run a Hydra main function; a user's mistake prints one line and exits with 1.

    SIGTERM ends with 143 and Ctrl-C with 130. Any other exception is a bug: its trace shows.
    """
    _PROGRAM[0] = name
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing and exiting
    prepare_process()
    show_log()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: stop(143, _stopped(name).lstrip()))
    try:
        for flag in {"-m", "--multirun"} & set(sys.argv[1:]):  # argparse takes it at the ends only
            sys.argv.remove(flag)
            sys.argv.insert(1, flag)
        _check_flags(sys.argv[1:], name)
        main()
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
    """Set what a program needs before torch is loaded: OpenMP's threads, and a screen that prints.

    OpenMP's threads spin while they wait for each other by default, and on cores that others use
    too a step then takes many times as long; in a container with a quota of processor time there
    are no more of them than it pays for. What the user has chosen stays. Signs that the screen's
    encoding does not have are printed as question marks.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if cpu_quota() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
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


def starting(name: str) -> None:
    """Before the imports of a program that is large itself: as `loading`, until `run` begins."""
    prepare_process()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave(name))


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Around the import of large packages: Ctrl-C and SIGTERM end the process at once.

    An exception in the middle of one leaves it half imported, and some swallow it.
    """
    leave = _leave(name)
    numbers = (signal.SIGINT, signal.SIGTERM)
    numbers = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # a launcher's; only the main one gets signals
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    except (ImportError, SystemError) as error:  # what some packages say where memory is limited
        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            raise
        raise MemoryError from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopped(SystemExit):
    """The end of the process after a line that says why: it needs no other one."""


def stop(code: int, line: str) -> None:
    """Print a line on standard error and end the process with this exit code."""
    print(shorten(line, LONGEST_LINE), file=sys.stderr, flush=True)
    raise Stopped(code)


@contextmanager
def resumable(name: str) -> Iterator[None]:
    """Around work that a signal ends after a checkpoint: the last line says how it goes on.

    name: that of the run.
    """
    try:
        yield
    except Stopped:
        raise  # it has said so itself
    except SystemExit as stopped:
        stop(stopped.code, f"{program()}: stopped; the same command with name={name} goes on")


def _check_flags(arguments: list[str], program: str) -> None:
    """Raise BortError for an option that is not Hydra's, or one without what belongs to it.

    argparse alone would print its usage and exit with 2.
    """
    for number, argument in enumerate(arguments, start=1):
        flag = argument.split("=")[0]
        if argument.startswith("-") and flag not in HYDRA_FLAGS and not argument.startswith("-p"):
            plain = _plain_setting(argument, arguments[number:], program)
            raise BortError(
                f"{argument} is not an option; settings are written without dashes: {plain}"
            )
    from hydra._internal.utils import get_args_parser  # loaded by Hydra's programs anyway

    parser = get_args_parser()
    parser.error = _refuse_options
    options = parser.parse_args([word for word in arguments if word != "--version"])
    if options.experimental_rerun is not None:  # by a shortened name
        raise BortError("--experimental-rerun unpickles a file, which bort does not do")


def _plain_setting(option: str, after: list[str], program: str) -> str:
    """What was meant by an option, as a setting of `program`: `trainer.max_epochs=3`.

    after: the words behind the option, of which the first may be its value.
    """
    word, sign, value = option.lstrip("-").replace("--", "").partition("=")
    if not sign and after and not after[0].startswith("-") and "=" not in after[0]:
        sign, value = "=", after[0]
    name = word.replace("-", "_")
    places = _settings_of(program)
    ends = [key for key in places if key.endswith(f"_{name}")]
    close = [name] if name in places else ends or difflib.get_close_matches(name, places, 1, 0.6)
    return f"{places[close[0]] if close else word}{sign}{value}"


def _settings_of(program: str) -> dict[str, str]:
    """Every name of a setting of a program that Hydra reads, and where it stands; else none."""
    from bort.config import search as search_config
    from bort.config.compose import CONF
    from bort.config.train import TrainConfig
    from bort.files.untrusted import read_yaml

    programs = {"train.py": TrainConfig, "search.py": search_config.SearchRunConfig}
    programs |= {f"bort {name.removesuffix('.py')}": schema for name, schema in programs.items()}
    programs["bort.benchmark"] = search_config.BenchmarkConfig
    if (schema := programs.get(program)) is None:
        return {}
    places = {item.name: item.name for item in fields(schema)}
    if "trainer" in places:
        for key in read_yaml(CONF / "trainer" / "default.yaml"):
            places.setdefault(key, f"trainer.{key}")
    for item in fields(schema):
        for inner in fields(item.type) if is_dataclass(item.type) else ():
            places.setdefault(inner.name, f"{item.name}.{inner.name}")
    return places


def _refuse_options(reason: str) -> NoReturn:
    raise BortError(f"{reason}; --help shows the settings")


def mistake(error: BaseException) -> str | None:
    """One line for a user's mistake, Hydra's and OmegaConf's own included; None for a bug."""
    line = explain(error)
    return None if line is None else shorten(line, LONGEST_LINE)
