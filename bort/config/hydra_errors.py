"""One line for a mistake in a setting, in place of the traces of Hydra and OmegaConf."""

import difflib
import errno
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from bort.console import listed
from bort.errors import BortError, is_out_of_memory


def explain(error: BaseException) -> str | None:
    """Return the line that a user needs to read about an exception; None for a bug."""
    chain = list(_follow_causes(error))
    for cause in chain:
        if isinstance(cause, BortError):
            return str(cause)
    for cause in chain:
        if (line := _explain_machine(cause)) is not None:
            return line
    if str(error).startswith("Config group override must be"):  # a plain ValueError of Hydra's
        return "a group takes the name of one of its files, as in arch=tiny or trainer=cpu"
    if type(error).__module__.split(".")[0] not in ("hydra", "omegaconf"):
        return None
    text = "\n".join(map(str, chain))
    return _explain_key(error, chain, text) or _explain_value(error, chain, text)


def _follow_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_machine(error: BaseException) -> str | None:
    """The line about a limit of the machine: its memory, disk, files or processes."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files; raise their limit (ulimit -n), or lower data.workers"
    if "can't start new thread" in str(error) or isinstance(error, BlockingIOError):
        return "no more threads or processes; raise their limit (ulimit -u) or that of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk ({error.filename or 'while writing'}); free some"
    if "(os error 28)" in str(error):  # of the libraries that are written in Rust
        return "no space left on the disk; free some"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the name {str(error.filename)[:60]}… is too long; give a shorter one"
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's words
        return "a path that begins with ~ names no user of this machine; write it in full"
    if is_out_of_memory(error):
        return (
            "out of memory; lower data.batch_size (and raise trainer.accumulate_grad_batches), "
            "data.length or the model's sizes"
        )
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        reason = " ".join(str(error).split())[:90]
        return f"compile=true does not work here ({reason}…); use compile=false"
    return None


def _explain_key(error: BaseException, chain: list[BaseException], text: str) -> str | None:
    """The line about a key or a choice that does not exist, or that has no value.

    chain: the exception and its causes; text: the words of all of them.
    """
    if match := re.search(r"Could not find '([^']+)'", text):
        return _explain_choice(match[1], text)
    if match := re.search(r"Key '([^']+)' not in '(\w+)'", text):
        key = _read_attribute(chain, "full_key") or match[1]
        key = key if key.split(".")[-1] == match[1] else f"{key}.{match[1]}"
        return f"{key} is not a setting{_suggest_key(chain, key)}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"{match[1]} is not a setting{_suggest_key(chain, match[1])}"
    if match := re.search(r"missing mandatory value: (\S+)", text, re.IGNORECASE):
        key = getattr(error, "full_key", None) or match[1]
        return f"{key} has no value; give {key}=…"
    return None


def _explain_value(error: BaseException, chain: list[BaseException], text: str) -> str:
    """The line about a value of a wrong type, or one that cannot be read; see `_explain_key`."""
    # What is indented names keys and types for the authors of a schema.
    lines = [line for line in text.splitlines() if line.strip() and line[0] != " "]
    if match := re.search(r"Error merging override (.+)", text):
        if "is not Optional" in text:
            return f"{match[1]}: a value is needed here"
        if "is not a ListConfig" in text:
            key, _, value = match[1].partition("=")
            single = f"{key}=[{value}], or " if re.fullmatch(r"[\w./:~+-]+", value) else ""
            return f"{match[1]} must be a list; write {single}{key}=[a,b] for more than one"
        if "is not a valid bool" in text:
            return f"{match[1]}: the value must be true or false"
        reason = next((line for line in lines if "could not be converted" in line), lines[-1])
        return f"{match[1]}: {reason}"
    if lines[0].startswith("Ambiguous value"):
        hint = "quote the value, or add -m to run one job for each; a list is written [a,b]"
        return f"{lines[0]}; {hint}"
    if "Lexer" in text or "Parse" in type(error).__name__:
        argument = _read_attribute(chain, "override") or "an argument"
        quoted = """'key="value"'"""
        return f"{argument} cannot be read; write key=value, with signs as {quoted}"
    key = getattr(error, "full_key", None)
    return (f"{key}: " if key and key not in lines[0] else "") + lines[0]


def _read_attribute(chain: list[BaseException], name: str) -> Any:
    """The attribute of the first exception that has one which is not empty; None without any."""
    return next((value for cause in chain if (value := getattr(cause, name, None))), None)


def _suggest_key(chain: list[BaseException], key: str) -> str:
    """The nearest key beside the one that does not exist, then anywhere in the configuration."""
    from bort.config.train import TrainConfig

    name, prefix = key.split(".")[-1], key.rpartition(".")[0]
    parents = (getattr(cause, "parent_node", None) for cause in chain)
    parent = next((node for node in parents if hasattr(node, "keys")), {})
    beside = [str(sibling) for sibling in parent if sibling != "hydra"]
    everywhere = {item.name: item.name for item in fields(TrainConfig)}
    if beside:
        everywhere = _locate_names(parent._get_root())
    if name in everywhere:
        return f"; did you mean '{everywhere[name]}'?"
    if close := difflib.get_close_matches(name, beside, 1, 0.5):
        meant = f"{prefix}.{close[0]}" if prefix else close[0]
        return f"; did you mean '{meant}'?"
    if close := difflib.get_close_matches(name, everywhere, 1, 0.6):
        return f"; did you mean '{everywhere[close[0]]}'?"
    return f"; known here: {listed(beside, 120)}" if beside else ""


def _locate_names(root: Any) -> dict[str, str]:
    """Every name in a composed configuration and where it stands; the trainer's come first."""
    located = {str(key): f"trainer.{key}" for key in root.get("trainer") or ()}
    for top in (str(key) for key in root if key != "hydra"):
        located.setdefault(top, top)
        inner = root._get_node(top)
        for key in inner if hasattr(inner, "keys") and not inner._is_none() else ():
            located.setdefault(str(key), f"{top}.{key}")
    return located


def _explain_choice(choice: str, text: str) -> str:
    """The line about `experiment/kd_pretain`: its group, and the nearest of its choices.

    text: lists the choices as Hydra does.
    """
    group, _, name = choice.rpartition("/")
    options = re.findall(r"^\t(\S+)$", text.split("Available options", 1)[-1], re.MULTILINE)
    close = difflib.get_close_matches(name, options, 1, 0.4)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    listing = f" (known: {listed(options, 100)})" if options else ""
    return f"{group}={name} is unknown{hint}{listing}"
