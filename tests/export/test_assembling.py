"""The predict.py of an exported folder is one plain file of what is tested here."""

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter

from bort.export import command
from bort.export.assembling import PARTS, assemble_predictor, list_requirements


def test_one_file_with_everything_in_it_once():
    """All definitions of its parts, letter by letter, none of them twice, and nothing of bort."""
    source = assemble_predictor()
    nodes = ast.parse(source).body
    assert ast.get_docstring(ast.parse(source)) == inspect.getdoc(command)
    names = Counter(node.name for node in nodes if hasattr(node, "name"))
    assert set(names.values()) == {1} and {"Model", "read_csv", "main", "answer_rows"} <= set(names)
    for part in PARTS:
        for node in ast.parse(inspect.getsource(part)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert ast.get_source_segment(inspect.getsource(part), node) in source
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports == nodes[1 : 1 + len(imports)]
    assert not [node for node in imports if "bort" in ast.unparse(node)]
    assert max(map(len, source.splitlines())) <= 100


def test_it_passes_the_same_checks_as_the_code(tmp_path):
    path = tmp_path / "predict.py"
    path.write_text(assemble_predictor(), "utf-8")
    words = ["-m", "ruff", "check", "--isolated", "--select=E,F,I", "--line-length=100"]
    result = subprocess.run([sys.executable, *words, str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_its_requirements_are_what_it_imports():
    source = assemble_predictor()
    lines = list_requirements().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["numpy", "onnxruntime", "tokenizers"]
    assert all(re.search(r"^\s*(import|from) " + name, source, re.MULTILINE) for name in names)
    third_party = {"torch", "transformers", "pandas", "pyarrow", "bort"}
    assert not [name for name in third_party if f"import {name}" in source]
