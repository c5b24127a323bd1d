"""The structure of the code: who may import whom, what starts light, what no file may mention."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A package, or a module that stands alone, imports only from rows above its own: what stands in
# one row does not know the rest of the row. `__main__`, `api` and the plugins are doors and may
# know all.
LEVELS = [
    row.split()
    for row in """
errors console machine network
files
html models
config teachers
shell training text runs objectives
pretraining tasks
finetuning
agora embeddings task_distillation
export trials
benchmark report predictor search
cli predict dashboard doctor pipeline fptas
""".strip().splitlines()
]
LEVEL = {name: number for number, row in enumerate(LEVELS) for name in row}
HEAVY = {"torch", "lightning", "transformers", "datasets", "pandas"}
MODULES = sorted((ROOT / "bort").rglob("*.py"))


def imported(source: str) -> set[str]:
    """Modules of bort that a source file in bort/ imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = ("bort." if node.level else "") + (node.module or "")
            paths = [f"{parent.rstrip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        # The second part is the module; in `from bort import x` it may also be a name of __init__.
        names |= {path.split(".")[1] for path in paths if path.startswith("bort.")}
    return names


def breaches(package: str, source: str) -> list[str]:
    """Imports of a source file in `package` that do not lie in a row above."""
    return sorted(
        name
        for name in imported(source) - {package}
        if LEVEL.get(name, len(LEVELS)) >= LEVEL[package]
    )


@pytest.mark.parametrize(
    "source",
    [
        "import bort.models.bert",
        "import os, bort.models.bert as m",
        "from bort import models",
        "from bort.models.bert import MaskedLM",
        "from . import models",
        "from .models.bert import MaskedLM",
        "def f():\n    from bort.models.bert import MaskedLM",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert imported(source) == {"models"}
    assert breaches("files", source) == breaches("html", source) == ["models"]
    assert breaches("models", source) == breaches("search", source) == []


def test_other_imports_are_not_ours():
    assert imported("import os\nfrom torch import nn\nimport bortlike.model") == set()


def test_packages_import_only_from_rows_above():
    assert len(MODULES) > 5
    wrong = {}
    for path in MODULES:
        package = path.relative_to(ROOT / "bort").parts[0].removesuffix(".py")
        if path.stem in ("__main__", "__init__") or package in ("plugins", "api"):
            continue
        assert package in LEVEL, f"give {package} a row in LEVELS"
        if names := breaches(package, path.read_text("utf-8")):
            wrong[str(path.relative_to(ROOT))] = names
    assert not wrong


@pytest.mark.parametrize("module", ["bort", "bort.errors", "bort.config.compose", "bort.shell"])
def test_start_is_light(module):
    """`--help`, `--cfg job` and completion load these, and answer in well under a second."""
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert module in loaded
    assert not loaded & HEAVY


def unnamed_encodings(source: str) -> list[int]:
    """Lines that read or write text by the machine's own encoding, which may lack signs of ours."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else None
        words = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if name in ("read_text", "write_text") and len(node.args) <= (name == "write_text"):
            lines.append(node.lineno)
        elif name == "open" and ast.unparse(node.func) != "os.open":
            if not any("b" in str(word) for word in words):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("path.write_text(x)", [1]),
        ("x\npath.open('w')", [2]),
        ("path.open(newline='')", [1]),
        ("path.open('rb'); os.open(x, y); path.read_text('utf-8'); p.open(encoding='ascii')", []),
    ],
)
def test_every_form_of_text_file_is_seen(source, lines):
    assert unnamed_encodings(source) == lines


def test_text_files_are_utf_8_on_every_machine():
    files = [*MODULES, ROOT / "train.py", ROOT / "search.py"]
    wrong = {path.name: unnamed_encodings(path.read_text("utf-8")) for path in files}
    assert not {name: lines for name, lines in wrong.items() if lines}


def repository_files() -> list[Path]:
    """What is or would be committed."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_depends_on_the_place_it_was_written_in():
    """Joined here, so that this file does not find itself."""
    place, neighbour = b"/wor" + b"k/", b"shar" + b"ed/"
    files = repository_files()
    assert ROOT / "bort" / "errors.py" in files
    found = []
    for path in files:
        text, folder = path.read_bytes(), path.relative_to(ROOT).parts[0]
        # Tests may name files below the folder of the `shared` fixture.
        if place in text or (neighbour in text and folder not in ("tests", ".ci")):
            found.append(str(path.relative_to(ROOT)))
    assert not found


def test_the_map_of_the_code_names_what_is_there():
    """Each module and folder that docs/architecture.md speaks of, and each package in it."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for name in set(re.findall(r"`([\w/]+\.py)`", text)):
        assert any(ROOT.glob(f"bort/**/{name}")) or (ROOT / name).is_file(), name
    tree = text.split("```")[1]
    folders = {path.parent.name for path in ROOT.glob("bort/*/__init__.py")}
    assert folders <= set(re.findall(r"(\w+)/ ", tree))
    rows = re.findall(r"^\| \d+ \| (.*) \|$", text, re.MULTILINE)
    listed = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert [names - {"fptas"} for names in map(set, LEVELS)] == listed
