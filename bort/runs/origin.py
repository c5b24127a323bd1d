"""What a run folder tells about its model: its data, teacher, starting point and scores.

A stranger may have written these texts, so card.py escapes them.
"""

import re
from pathlib import Path
from typing import Any

from bort.config.train import EMBED, FITTING_JOBS
from bort.console import counted, decimal
from bort.files.run_files import MODEL
from bort.files.untrusted import read_json
from bort.models.arch import Arch
from bort.runs.folder import RunFolder

UNKNOWN = "unknown"  # a licence that nothing states
HEAD = 20_000  # characters of a card that may state it
EMBEDDED = "docstrings of the installed Python packages"


def read_facts(source: str) -> dict[str, Any]:
    """Read summary.json and settings.json of the run that made a model; empty where there is none.

    source: a run folder, or the model folder in one. Raises BortError for damaged files.
    """
    folder = RunFolder(Path(source).expanduser())
    if folder.name == MODEL and not folder.settings_file.is_file():
        folder = RunFolder(folder.path.parent)
    facts: dict[str, Any] = {}
    for path in (folder.summary_file, folder.settings_file):
        facts |= read_json(path) if path.is_file() else {}
    return facts


def hide_folders(value: Any) -> str:
    """Return a name without the folders of this machine: the last part of a path, or a hub name.

    A model folder inside a run gives the name of the run.
    """
    text = str(value)
    path = Path(text)
    local = text.startswith(("/", ".", "~", "runs/")) or text.count("/") > 1 or "\\" in text
    if not local and not path.exists():
        return text
    path = Path(text.replace("\\", "/"))
    path = path if path.name and path.name != ".." else path.resolve()
    return path.parent.name if path.name == MODEL and path.parent.name else path.name


def list_scores(run: dict[str, Any]) -> dict[str, str]:
    """List `val/accuracy` and the like, with four digits."""
    values = {k: decimal(v) for k, v in run.items() if "/" in k and isinstance(v, float)}
    for key in values:
        count = run.get(f"rows/{key.partition('/')[0]}")
        if isinstance(count, int):
            values[key] += f" ({counted(count, 'row')})"
    doubt = run.get("doubt")
    return values | ({"to doubt": doubt} if isinstance(doubt, str) else {})


def list_licences(run: dict[str, Any]) -> dict[str, str]:
    """List the licences of what a run's model was made from, `unknown` where nothing states one."""
    sources = {
        "base model": run.get("model"),
        "teacher": run.get("teacher.name"),
        "data": next(
            (run[key] for key in ("data.train", "data.path", "data.root") if run.get(key)), None
        ),
    }
    named = {name: source for name, source in sources.items() if isinstance(source, str)}
    return {f"licence of the {name}": read_licence(source) for name, source in named.items()}


def read_licence(source: str) -> str:
    """Read the licence that the card (README.md) of a model or of data states, or `unknown`.

    source: a folder, a file in one, or the name of a model on the hub whose card is cached.
    """
    path = Path(source).expanduser()
    card = (path.parent if path.is_file() else path) / "README.md"
    if not path.exists():
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(source, "README.md")
        except ValueError:  # no name of the hub
            return UNKNOWN
        card = Path(cached) if isinstance(cached, str) else card
    if not card.is_file():
        return UNKNOWN
    with card.open(encoding="utf-8", errors="replace") as file:
        head = file.read(HEAD)
    facts = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    stated = re.search(r"^license:[ \t]*(\S.*)$", facts[1], re.MULTILINE) if facts else None
    return stated[1].strip().strip("\"'") if stated else UNKNOWN


def list_origins(run: dict[str, Any]) -> dict[str, str]:
    """List `task`, `data`, `base model`, `teacher` and `seed` of a run, as far as it had them."""
    if not run:
        return {}
    if run.get("job") in FITTING_JOBS:
        facts = {
            "task": run.get("task"),
            "data": _describe_rows(run),
            "base model": _describe_base(run),
        }
        if run.get("job") == "agora":
            named = run.get("agora.teacher")
            facts["teacher"] = hide_folders(named) if named else "fine-tuned in the same run"
        elif run.get("job") == "kd_finetune":
            facts["teacher"] = hide_folders(run.get("teacher.name"))
            facts["unlabelled"] = hide_folders(run.get("data.unlabelled")) or None
    else:
        base = _describe_base(run) if run.get("model") else None
        facts = {"data": _describe_text(run), "base model": base}
        facts["teacher"] = _describe_teacher(run)
    facts["seed"] = run.get("seed")
    return {key: str(value) for key, value in facts.items() if value is not None}


def _describe_rows(run: dict[str, Any]) -> str | None:
    """Say what a model was fine-tuned on; None where it was no rows."""
    task = run.get("task")
    if task in ("custom", EMBED):
        files = [run.get(f"data.{split}") for split in ("train", "val", "test")]
        return ", ".join(hide_folders(file) for file in files if file) or None
    return EMBEDDED if task == "docstrings" else f"the official rows of {task}"


def _describe_base(run: dict[str, Any]) -> str:
    """Say what a training started from, and what that model learnt from if it is still there."""
    if not run.get("model") and run.get("task") == EMBED:
        return f"{_format_arch(run, 'arch')}, started from its teacher's embeddings"
    if not run.get("model"):
        return f"an encoder {_format_arch(run, 'arch')} of its own, pre-trained on {EMBEDDED}"
    name = hide_folders(run["model"])
    before = read_facts(run["model"])
    if before.get("job") not in ("pretrain", "compare"):
        return name
    teacher = _describe_teacher(before)
    return f"{name}, pre-trained on {_describe_text(before)}" + (
        f" by {teacher}" if teacher else ""
    )


def _describe_text(run: dict[str, Any]) -> str:
    """Say what a masked language model was pre-trained on."""
    return hide_folders(run.get("data.path")) if run.get("data.source") == "text" else EMBEDDED


def _describe_teacher(run: dict[str, Any]) -> str | None:
    """Name the teacher of a pre-training, if it had one."""
    weights = ("distill.w_kd", "distill.w_hidden", "distill.w_relation")
    start = run.get("init", "default") or ("teacher" if run.get("teacher.name") else "default")
    if not (any(run.get(key) for key in weights) or start == "teacher"):
        return None
    if run.get("teacher.name"):
        return f"teacher {hide_folders(run['teacher.name'])}"
    return f"a teacher {_format_arch(run, 'teacher.arch')} of its own, trained on the same text"


def _format_arch(run: dict[str, Any], key: str) -> str:
    numbers = (str(run.get(f"{key}.{size}", "?")) for size in Arch.KEYS)
    return f"⟨{','.join(numbers)}⟩"
