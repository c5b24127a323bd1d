"""One line for a mistake in a setting, in place of the traces of Hydra and OmegaConf."""

import difflib
import errno
import re
from collections.abc import Iterator
from dataclasses import fields

from bort.console import listed
from bort.errors import BortError, is_out_of_memory


def explain(error: BaseException) -> str | None:
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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _user_error(error: BaseException) -> BortError | None:
    return next((e for e in _chain(error) if isinstance(e, BortError)), None)


def _near(error: BaseException, key: str) -> str:
    """The nearest known key beside the unknown one, then anywhere in the configuration."""
    from bort.config.train import TrainConfig

    name, prefix = key.split(".")[-1], key.rpartition(".")[0]
    parent = next((e.parent_node for e in _chain(error) if _has_keys(e)), {})
    beside = [str(k) for k in parent if k != "hydra"]
    everywhere = (
        _places(parent._get_root()) if beside else {f.name: f.name for f in fields(TrainConfig)}
    )
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
