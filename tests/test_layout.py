"""The structure of the code: who may import whom, what starts light, what no file may mention."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports only from modules named before it; __init__ may import any. The doctor is early
# because it must run where no package is installed: of ours it imports the machine alone.
ORDER = """
errors
wording
machine
foreign
ownership
files
locks
digests
doctor
trainer_ranges
config
coefficient
search_config
unused
cli
identity
origin
export_settings
runs
tokenizer
tokenizer_folder
text_files
rows
tasks
tables
custom
casting
scoring
documents
copies
splits
docstrings
corpus
data
batches
model
hub
hf_config
hf
cost
optim
flops
checkpoint
logger
progress
training
distill
pretrain
compare
heads
finetune
agora
page
agora_page
generators
judge
candidate
agora_run
mistakes
record
report
candidate_table
fptas
search_records
onnx
latency
search_page
search
dashboard
optimum
task_plan
plan
sweep_table
sweep
onnx_predict
predict
agreement
card
export
contenders
benchmark
bort_fptas
pipeline_page
pipeline
__init__
""".split()
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


def against_order(module: str, source: str) -> list[str]:
    """Imports of `module` that do not lie before it."""
    return sorted(x for x in imported(source) if x not in ORDER[: ORDER.index(module)])


@pytest.mark.parametrize(
    "source",
    [
        "import bort.model",
        "import os, bort.model as m",
        "from bort import model",
        "from bort.model import MaskedLM",
        "from . import model",
        "from .model import MaskedLM",
        "def f():\n    from bort.model import MaskedLM",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert imported(source) == {"model"}
    assert against_order("data", source) == ["model"]
    assert against_order("model", source) == ["model"]
    assert against_order("hf", source) == []


def test_other_imports_are_not_ours():
    assert imported("import os\nfrom torch import nn\nimport bortlike.model") == set()


def test_modules_import_only_from_rows_above():
    assert len(MODULES) > 5
    unknown = [path.name for path in MODULES if path.stem not in ORDER]
    assert not unknown, f"give {unknown} a place in ORDER"
    wrong = {path.stem: against_order(path.stem, path.read_text("utf-8")) for path in MODULES}
    assert not {module: names for module, names in wrong.items() if names}


@pytest.mark.parametrize("module", ["bort", "bort.errors", "bort.config", "bort.cli"])
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
