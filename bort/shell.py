"""The border to the shell: first line, exit codes, and one line for a user's mistake.

Nothing heavy is imported here: `--help`, `--cfg job` and completion pass through.
"""

import difflib
import errno
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import NoReturn

from bort.errors import BortError, is_out_of_memory, nearest
from bort.machine import cpu_quota, usable_cores

HYDRA_FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p",
    "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp",
    "--config-name", "-cn", "--config-dir", "-cd", "--info", "-i",
)  # fmt: skip
# Not among them: --experimental-rerun, which unpickles the file that it is given.
NEARBY = 30  # characters in which a long line is rather cut between words
LONGEST_LINE = 200  # characters of a line about a mistake

STOPPED = "stopped; the same command with the same name= starts or goes on"
RESUMED = ("train.py", "search.py", "bort.pipeline")  # the others are short


def say(line: str) -> None:
    """A line for the user, at once; of several processes only the first speaks."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, flush=True)


def clock(seconds: float) -> str:
    """`0:42`, `12:05`, `3:07:12`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def python() -> str:
    """How this interpreter is called from here: `.venv/bin/python`, or `python`."""
    path = os.path.relpath(sys.executable) if sys.executable else ".."
    return "python" if path.startswith("..") else path


def run(main: Callable[[], object], name: str) -> None:
    """Run a Hydra main function; a user's mistake prints one line and exits with 1.

    SIGTERM ends with 143 and Ctrl-C with 130. Any other exception is a bug: its trace shows.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing and exiting
    prepare_process()
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


def shorten(text: str, longest: int) -> str:
    """The text on one line, with an ellipsis in its middle where it has more signs than `longest`.

    Its end stays: that is where a line about a mistake says what to do. It is cut between words
    where there is a space nearby.
    """
    head = text[: len(text) - len(text.lstrip("\n"))]  # after Ctrl-C the terminal shows ^C
    text = " ".join(text.split())
    if len(text) > longest:
        first = longest * 2 // 3
        start, end = text[:first], text[len(text) - (longest - first - 1) :]
        if not text[first].isspace() and (space := start.rfind(" ", -NEARBY)) >= 0:
            start = start[: space + 1]
        if not text[-len(end) - 1].isspace() and 0 <= (space := end.find(" ", 0, NEARBY)):
            end = end[space:]
        text = f"{start}…{end}"
    return head + text


def listed(names: Iterable[str], longest: int) -> str:
    """Names with commas between; the last ones are an ellipsis where they are too many."""
    text = ", ".join(names)
    return text if len(text) <= longest else f"{text[: text.rfind(',', 0, longest)]}, …"


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
    from bort.config.train import CONF, Train
    from bort.files.untrusted import read_yaml

    programs = {"train.py": Train, "search.py": search_config.SearchRun}
    programs["bort.benchmark"] = search_config.Benchmark
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
    line = _explain(error)
    return None if line is None else shorten(line, LONGEST_LINE)


def _explain(error: BaseException) -> str | None:
    if (own := _user_error(error)) is not None:
        return str(own)
    for inner in _chain(error):
        if isinstance(inner, OSError) and inner.errno in (errno.EMFILE, errno.ENFILE):
            return "too many open files; raise their limit (ulimit -n), or lower data.workers"
        if "can't start new thread" in str(inner) or isinstance(inner, BlockingIOError):
            return "no more threads or processes; raise their limit (ulimit -u) or that of memory"
        if isinstance(inner, OSError) and inner.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left on the disk ({inner.filename or 'while writing'}); free some"
        if "(os error 28)" in str(inner):  # of the libraries that are written in Rust
            return "no space left on the disk; free some"
        if isinstance(inner, OSError) and inner.errno == errno.ENAMETOOLONG:
            return f"the name {str(inner.filename)[:60]}… is too long; give a shorter one"
        if isinstance(inner, RuntimeError) and "home directory" in str(inner):  # pathlib's words
            return "a path that begins with ~ names no user of this machine; write it in full"
        if is_out_of_memory(inner):
            return (
                "out of memory; lower data.batch_size (and raise trainer.accumulate_grad_batches), "
                "data.length or the model's sizes"
            )
        if type(inner).__module__.startswith(("torch._inductor", "torch._dynamo")):
            reason = " ".join(str(inner).split())[:90]
            return f"compile=true does not work here ({reason}…); use compile=false"
    if str(error).startswith("Config group override must be"):  # a plain ValueError of Hydra's
        return "a group takes the name of one of its files, as in arch=tiny or trainer=cpu"
    if type(error).__module__.split(".")[0] not in ("hydra", "omegaconf"):
        return None
    text = "\n".join(str(e) for e in _chain(error))
    if match := re.search(r"Could not find '([^']+)'", text):
        return _unknown_choice(match.group(1), text)
    if match := re.search(r"Key '([^']+)' not in '(\w+)'", text):
        key = next((e.full_key for e in _chain(error) if getattr(e, "full_key", None)), match[1])
        key = key if key.split(".")[-1] == match[1] else f"{key}.{match[1]}"
        return f"{key} is not a setting{_near(error, key)}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"{match.group(1)} is not a setting{_near(error, match.group(1))}"
    if match := re.search(r"missing mandatory value: (\S+)", text, re.IGNORECASE):
        key = getattr(error, "full_key", None) or match[1]
        return f"{key} has no value; give {key}=…"
    # What is indented names keys and types for the authors of a schema.
    lines = [line for line in text.splitlines() if line.strip() and line[0] != " "]
    if match := re.search(r"Error merging override (.+)", text):
        if "is not Optional" in text:
            return f"{match[1]}: a value is needed here"
        if "is not a ListConfig" in text:
            key, _, value = match[1].partition("=")
            one = f"{key}=[{value}], or " if re.fullmatch(r"[\w./:~+-]+", value) else ""
            return f"{match[1]} must be a list; write {one}{key}=[a,b] for more than one"
        reason = next((line for line in lines if "could not be converted" in line), lines[-1])
        return f"{match[1]}: {reason}"
    if lines[0].startswith("Ambiguous value"):
        hint = "quote the value, or add -m to run one job for each; a list is written [a,b]"
        return f"{lines[0]}; {hint}"
    if "Lexer" in text or "Parse" in type(error).__name__:
        argument = next((e.override for e in _chain(error) if getattr(e, "override", None)), None)
        quoted = """'key="value"'"""
        return (
            f"{argument or 'an argument'} cannot be read; write key=value, with signs as {quoted}"
        )
    key = getattr(error, "full_key", None)
    return (f"{key}: " if key and key not in lines[0] else "") + lines[0]


def keys(arguments: list[str], known: dict[str, str | None]) -> dict[str, str | None]:
    """`key=value` arguments over their defaults; raises BortError for one that is not known."""
    found = dict(known)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            raise BortError(f"{argument} is not key=value; text with spaces is quoted: text='a b'")
        if key not in known:
            raise BortError(
                f"{argument} is not a setting{nearest(key, known)}; use {listed(known, 120)}"
            )
        found[key] = value
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _user_error(error: BaseException) -> BortError | None:
    return next((e for e in _chain(error) if isinstance(e, BortError)), None)


def _near(error: BaseException, key: str) -> str:
    """The nearest known key beside the unknown one, then anywhere in the configuration."""
    from bort.config.train import Train

    name, prefix = key.split(".")[-1], key.rpartition(".")[0]
    parent = next((e.parent_node for e in _chain(error) if _has_keys(e)), {})
    beside = [str(k) for k in parent if k != "hydra"]
    everywhere = _places(parent._get_root()) if beside else {f.name: f.name for f in fields(Train)}
    if name in everywhere:
        return f"; did you mean '{everywhere[name]}'?"
    if close := difflib.get_close_matches(name, beside, 1, 0.5):
        return f"; did you mean '{f'{prefix}.' if prefix else ''}{close[0]}'?"
    if close := difflib.get_close_matches(name, everywhere, 1, 0.6):
        return f"; did you mean '{everywhere[close[0]]}'?"
    return f"; known here: {listed(beside, 120)}" if beside else ""


def _places(root) -> dict[str, str]:
    """Every name in a configuration of groups and where it stands; trainer's come first."""
    found = {str(k): f"trainer.{k}" for k in root.get("trainer") or ()}
    for top in (str(k) for k in root if k != "hydra"):
        found.setdefault(top, top)
        inner = root._get_node(top)
        for below in inner if hasattr(inner, "keys") and not inner._is_none() else ():
            found.setdefault(str(below), f"{top}.{below}")
    return found


def _has_keys(error: BaseException) -> bool:
    return hasattr(getattr(error, "parent_node", None), "keys")


def _unknown_choice(choice: str, text: str) -> str:
    """`experiment/kd_pretain` → its group, and the nearest of the options that Hydra lists."""
    group, _, name = choice.rpartition("/")
    options = re.findall(r"^\t(\S+)$", text.split("Available options", 1)[-1], re.MULTILINE)
    close = difflib.get_close_matches(name, options, 1, 0.4)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    known = f" (known: {listed(options, 100)})" if options else ""
    return f"{group}={name} is unknown{hint}{known}"
