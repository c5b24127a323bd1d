"""The predict.py of an exported folder: a few modules of bort as one plain file.

Each stands there as it is in bort, but for its imports, which stand together at the top: what is
tested here is what is shipped, and neither bort nor torch is needed to run it.
"""

import ast
import inspect
from importlib.metadata import version
from types import ModuleType

from bort.export import command, rules, standalone, tables
from bort.files import delimited

PACKAGES = ("numpy", "onnxruntime", "tokenizers")  # that predict.py imports
PARTS = (delimited, rules, tables, standalone, command)  # what a module needs is in front of it


def assemble_predictor() -> str:
    """Return the source of predict.py; it begins with the docstring of its command."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    bodies = []
    for part in PARTS:
        source = inspect.getsource(part)
        nodes = ast.parse(source).body
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in imports:
            if isinstance(node, ast.Import):
                plain |= {alias.name for alias in node.names}
            elif not node.module.startswith("bort."):
                names.setdefault(node.module, set()).update(alias.name for alias in node.names)
        bodies.append(_format_part(part, source, imports[-1].end_lineno))
    lines = [f"import {name}" for name in sorted(plain)]
    for name in sorted(names):
        lines.append(f"from {name} import {', '.join(sorted(names[name], key=_rank_name))}")
    head = "\n".join([f'"""{command.__doc__}"""\n', *lines])
    return f"{head}\n\n" + "\n\n\n".join(bodies) + "\n"


def list_requirements() -> str:
    """Return the requirements.txt of predict.py, with the versions that the export was checked by.

    Newer ones are allowed: it uses what these packages have had for years.
    """
    lines = [f"{name}  # checked with {version(name)}" for name in PACKAGES]
    return "\n".join(lines) + "\n"


def _rank_name(name: str) -> tuple[bool, bool, str]:
    """Return what sorts imported names: constants, then classes, then functions."""
    return (not name.isupper(), name.islower(), name)


def _format_part(part: ModuleType, source: str, end: int) -> str:
    """Return what stands below the imports of a module, under a line with its purpose.

    end: the last line of its imports.
    """
    purpose = part.__doc__.partition("\n")[0].rstrip(".")
    rule = "-" * 98
    body = "\n".join(source.splitlines()[end:]).strip()
    return f"# {rule}\n# {purpose}\n# {rule}\n\n{body}"
