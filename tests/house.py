"""Figures of the code itself: how full folders are, how long functions, how plain names.

    python tests/house.py           # this tree
    python tests/house.py ../older  # another checkout

`test_house.py` holds the limits.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

# Names that say nothing about what they hold.
STAND_INS = set(
    "found given place places own each every known kept several asked wanted said told many few "
    "one two other others what whole rest some mine theirs".split()
)
# First words of function names: what the function does. Nouns that are verbs too stand here only
# where the tree uses them as verbs.
VERBS = set(
    """
    accept add adjust advance allow answer append apply ask assert begin bind build calibrate call
    cast catch certify change check choose clean clear close collect combine compare compile
    complain compose compute conclude configure connect contain convert copy correct count create
    cut damage decide decode decorate define delete describe detect diagnose discard display distil
    do download draw drop dump edit embed emit encode end ensure enter enumerate erase estimate
    evaluate exclude exit expand expect explain export extend extract fail fetch fill filter find
    finish fit fix flatten fold follow forget format forward freeze gather generate get give group
    guard guess handle hash have hide hold identify ignore import include index infer initialize
    insert inspect install instantiate interleave invert is iterate join keep launch leave let link
    list load locate lock log look lower make map mark mask match measure merge move name narrow
    normalize notice observe omit open overlap overlay pack pad parse pass pick plan plot pool post
    predict prepare pretrain print promise protect prove prune publish push put quantize quote raise
    rank read rebuild receive recommend record recover reduce refuse register release reload remove
    rename render reopen repair repeat replace report require rescale reserve reset resolve restore
    restrict resume retry return reverse round run sample save scale scan score search select send
    separate set settle shorten show shuffle shut skip solve sort spell split spread stack start
    stem step stop store strip submit subtract suggest sum summarize swap switch synchronize take
    tell test tie time tokenize trace train transform translate transpose trim try tune turn unify
    unlock unpack unquote update upload use validate verify visit wait walk warm warn watch weigh
    wrap write yield zip
    """.split()
)
FREE = ("to", "from", "is", "has")  # first words that are as plain as a verb
# Names that Lightning, Hydra, PyTorch and Python prescribe, and those of mathematics.
PRESCRIBED = {
    "forward", "training_step", "validation_step", "state_dict", "main", "softmax", "gelu",
    "w_coefficient", "kd_loss", "gibbs", "pareto", "quantile",
}  # fmt: skip


@dataclass
class House:
    """What was counted in the modules of a tree."""

    modules: int = 0
    lines: int = 0
    fullest_folder: tuple[int, str] = (0, "")
    longest_function: tuple[int, str] = (0, "")
    most_arguments: tuple[int, str] = (0, "")
    longest_module: tuple[int, str] = (0, "")
    names: int = 0
    stand_ins: Counter = field(default_factory=Counter)
    functions: int = 0
    verb_first: int = 0
    other_first: Counter = field(default_factory=Counter)
    string_keys: int = 0
    nested_comprehensions: list[str] = field(default_factory=list)
    nested_f_strings: list[str] = field(default_factory=list)
    public: int = 0
    undocumented: list[str] = field(default_factory=list)

    @property
    def stand_in_share(self) -> float:
        """Share of stand-ins among all assigned names and parameters."""
        return sum(self.stand_ins.values()) / max(self.names, 1)

    @property
    def verb_share(self) -> float:
        """Share of functions whose name begins with a verb; properties are nouns."""
        return self.verb_first / max(self.functions, 1)

    @property
    def keys_per_1000_lines(self) -> float:
        """Subscripts with a literal string, as in `row["w"]`, per 1,000 lines."""
        return 1000 * self.string_keys / max(self.lines, 1)

    @property
    def documented_share(self) -> float:
        """Share of public classes, functions and methods with a docstring."""
        return 1 - len(self.undocumented) / max(self.public, 1)


def survey(folder: Path) -> House:
    """Count in every module below a folder."""
    house, folders = House(), Counter()
    for path in sorted(folder.rglob("*.py")):
        if path.name != "__init__.py":
            folders[str(path.parent)] += 1
        text = path.read_text("utf-8")
        count_module(house, str(path.relative_to(folder)), text)
    house.fullest_folder = max(((count, name) for name, count in folders.items()), default=(0, ""))
    return house


def count_module(house: House, name: str, text: str) -> None:
    """Add what stands in one module."""
    tree, lines = ast.parse(text), text.count("\n")
    house.modules += 1
    house.lines += lines
    house.longest_module = max(house.longest_module, (lines, name))
    for node in ast.walk(tree):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if (word := assigned_name(node)) is not None:
            house.names += 1
            house.stand_ins[word] += word in STAND_INS
        elif isinstance(node, FUNCTIONS):
            count_function(house, node, where)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            house.string_keys += isinstance(node.slice.value, str)
        elif isinstance(node, COMPREHENSIONS):
            inner = [child for child in ast.walk(node) if child is not node]
            if any(isinstance(child, COMPREHENSIONS) for child in inner):
                house.nested_comprehensions.append(where)
        elif isinstance(node, ast.JoinedStr) and holds_f_string(node):
            house.nested_f_strings.append(where)
    count_docstrings(house, tree, name)


def assigned_name(node: ast.AST) -> str | None:
    """The name that a node assigns or declares as a parameter."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.arg if isinstance(node, ast.arg) else None


def count_function(house: House, node: ast.FunctionDef, where: str) -> None:
    """Add a function's length, arguments and first word."""
    house.longest_function = max(
        house.longest_function, (node.end_lineno - node.lineno + 1, f"{where} {node.name}")
    )
    arguments = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
    count = len([arg for arg in arguments if arg not in ("self", "cls")])
    house.most_arguments = max(house.most_arguments, (count, f"{where} {node.name}"))
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if node.name.startswith("__") or decorators & {"property", "cached_property"}:
        return
    first = re.split(r"_+", node.name.strip("_"))[0]
    prescribed = node.name in PRESCRIBED or first == "on"  # on_train_start … of Lightning
    house.functions += 1
    if prescribed or first in VERBS or first in FREE:
        house.verb_first += 1
    else:
        house.other_first[node.name] += 1


def holds_f_string(node: ast.JoinedStr) -> bool:
    """Whether an f-string stands inside of this one; a format such as `{x:>{width}}` is none."""
    values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
    return any(isinstance(inner, ast.JoinedStr) for value in values for inner in ast.walk(value))


def count_docstrings(house: House, tree: ast.Module, name: str) -> None:
    """Add the public definitions of a module; what stands inside a function is nobody's door."""
    for node, path in public_definitions(tree, ""):
        house.public += 1
        if not ast.get_docstring(node):
            house.undocumented.append(f"{name} {path}")


def public_definitions(parent: ast.AST, path: str) -> Iterator[tuple[ast.AST, str]]:
    """Classes, functions and methods without an underscore, and their names with dots."""
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
            continue
        yield node, f"{path}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node, f"{path}{node.name}.")


def private_names(tests: Path) -> list[str]:
    """Places in tests that reach for a private name of bort: `module._name`, `import _name`."""
    reached = []
    for path in sorted(tests.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        modules = imported_from_bort(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bort"):
                names = [alias.name for alias in node.names if alias.name.startswith("_")]
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                names = [node.attr] if ast.unparse(node.value).split(".")[0] in modules else []
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = re.findall(r"^bort\.[\w.]*\.(_[a-z]\w*)", node.value)  # monkeypatch
            else:
                continue
            reached += [f"{path.relative_to(tests)}:{node.lineno} {name}" for name in names]
    return reached


def imported_from_bort(tree: ast.Module) -> set[str]:
    """The names under which a test file knows modules and classes of bort."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bort"):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            bort = [alias for alias in node.names if alias.name.startswith("bort")]
            names |= {alias.asname or "bort" for alias in bort}
    return names


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore; `__name__` is Python's own."""
    return name.startswith("_") and not name.startswith("__")


def untested_modules(package: Path, tests: Path) -> list[str]:
    """Modules without a test file of their name in the folder that mirrors theirs."""
    missing = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if path.name in ("__init__.py", "__main__.py") or inside.parts[0] == "plugins":
            continue
        if not (tests / inside.parent / f"test_{path.name}").is_file():
            missing.append(str(inside))
    return missing


def print_figures(root: Path) -> None:
    """Print the table of a checkout."""
    house = survey(root / "bort")
    for item in fields(House):
        value = getattr(house, item.name)
        if isinstance(value, Counter):
            value = ", ".join(f"{name} {count}" for name, count in value.most_common(40) if count)
        elif isinstance(value, list):
            value = f"{len(value)}: {', '.join(value)}"
        print(f"{item.name:<22}{value}")
    for name in ("stand_in_share", "verb_share", "documented_share"):
        print(f"{name:<22}{getattr(house, name):.1%}")
    print(f"{'keys_per_1000_lines':<22}{house.keys_per_1000_lines:.1f}")
    reached = private_names(root / "tests")
    print(f"{'private_in_tests':<22}{len(reached)}: {', '.join(reached)}")
    missing = untested_modules(root / "bort", root / "tests")
    print(f"{'untested_modules':<22}{len(missing)}: {', '.join(missing)}")


if __name__ == "__main__":
    print_figures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
