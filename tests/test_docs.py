"""README and docs/ name only files, modules, settings and headings that exist."""

import ast
import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from bort.benchmark.settings import BenchmarkConfig
from bort.config.search import SearchRunConfig
from bort.config.train import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("bort/*/__init__.py"))
TRAINER = ROOT / "conf" / "trainer" / "default.yaml"
EXAMPLES = {"serve.py", "predict.py"}  # files that a user may have, or an export
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_spans(page: Path) -> list[str]:
    """The texts between backticks on a page, without blocks of code."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def is_file(name: str) -> bool:
    """Whether a page may call a file of the repository this: `search/fptas.py`, `recipe.py`."""
    exact = [ROOT / name, ROOT / "bort" / name]
    return any(path.is_file() for path in exact) or (
        "/" not in name and any(ROOT.glob(f"bort/**/{name}"))
    )


@cache
def defined_names(path: Path) -> set[str]:
    """Functions, classes, their methods, fields and constants of a module, and names in strings."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # the names that bort/__init__.py loads when they are asked for
    return names


def is_module_or_name(dotted: str) -> bool:
    """Whether `bort.search.fptas` is a module, or `bort.load` a name in one."""
    path, *rest = ROOT / "bort", *dotted.split(".")[1:]
    while rest and (path / rest[0]).is_dir():
        path /= rest.pop(0)
    if rest and (path / f"{rest[0]}.py").is_file():
        module = path / f"{rest.pop(0)}.py"
    else:
        module = path / "__init__.py"
    return not rest or (module.is_file() and rest[0] in defined_names(module))


def setting_names(config: type, prefix: str = "") -> set[str]:
    """The dotted names of all settings of a dataclass."""
    names = set()
    for field in fields(config):
        kind = get_type_hints(config)[field.name]
        name = f"{prefix}{field.name}"
        names.add(name)
        for part in (kind, *get_args(kind)):
            if is_dataclass(part):
                names |= setting_names(part, f"{name}.")
    return names


@cache
def all_settings() -> set[str]:
    names = {f"trainer.{key}" for key in yaml.safe_load(TRAINER.read_text("utf-8"))}
    for config in (TrainConfig, SearchRunConfig, BenchmarkConfig):
        names |= setting_names(config)
    assert {"data.path", "search.n", "agora.grid.lr", "latency.engine"} <= names
    return names


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_files_and_modules_that_a_page_names_exist(page):
    for span in code_spans(page):
        for name in re.findall(r"(?<![\w/.<>…])[\w/]+\.(?:py|yaml|toml)\b", span):
            if name.startswith("runs/") or name in EXAMPLES | {"optimum.yaml", "optimum_w.yaml"}:
                continue
            assert is_file(name) or (ROOT / name).match("conf/local/*"), f"{page.name}: {name}"
        for folder in re.findall(r"^((?:conf|bort|benchmarks|tests)/[\w/]*)$", span):
            exists = (ROOT / folder).is_dir() or folder.startswith("conf/local")
            assert exists or any(ROOT.glob(f"{folder}.*")), f"{page.name}: {folder}"
        for dotted in re.findall(r"(?<![\w/.])bort(?:\.\w+)+", span):
            assert is_module_or_name(dotted), f"{page.name}: {dotted}"


@each_page
def test_links_of_a_page_lead_to_what_exists(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


@each_page
def test_settings_that_a_page_names_exist(page):
    groups = {name.split(".")[0] for name in all_settings() if "." in name}
    for span in code_spans(page):
        for name in re.findall(r"(?<![\w./])([a-z_]+\.[a-z_.]*[a-z_])(?==)", span):
            if name.split(".")[0] in groups:
                assert name in all_settings(), f"{page.name}: {name}"
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) and span.split(".")[0] in groups:
            known = span in all_settings() or is_file(span) or span.endswith((".json", ".csv"))
            assert known, f"{page.name}: {span}"


@each_page
def test_names_in_the_code_that_a_page_gives_are_defined(page):
    text = page.read_text("utf-8")
    if "## In the code" not in text:
        return
    defined = set().union(*(defined_names(path) for path in ROOT.glob("bort/**/*.py")))
    section = text.split("## In the code")[1].split("\n## ")[0]
    for name in re.findall(r"`([A-Za-z_]+)(?:\(\))?`", section):
        assert name in defined, f"{page.name}: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_a_page_that_the_map_links(package):
    assert (ROOT / "docs" / f"{package}.md").is_file()
    assert f"]({package}.md)" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_of_a_package_names_each_of_its_modules(package):
    """A reader who follows the page would miss a module that it does not name."""
    text = (ROOT / "docs" / f"{package}.md").read_text("utf-8")
    modules = {path.name for path in (ROOT / "bort" / package).glob("[!_]*.py")}
    assert not [name for name in sorted(modules) if f"`{package}/{name}`" not in text]


def test_every_page_is_in_the_navigation_of_the_site():
    """Otherwise `make docs` stops, which takes half a minute to find out."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    listed = re.findall(r"([\w/-]+\.md)$", navigation, re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 25 and not set(pages) - set(listed)
    assert len(set(listed)) == len(listed)


def test_the_glossary_explains_words_that_are_used():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", glossary, re.MULTILINE)
    terms = [term for cell, _ in rows if cell not in ("word", "---") for term in cell.split(", ")]
    assert len(terms) > 80 and len(set(terms)) == len(terms)
    used = " ".join(page.read_text("utf-8") for page in PAGES if page.name != "glossary.md").lower()
    unused = [term for term in terms if term.partition(" (")[0].lower() not in used]
    assert not unused
    assert not [cell for cell, text in rows if len(text) < 3]


def test_the_checks_find_what_is_missing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`search/nothing.py` `bort.nothing` `data.nothing=1` [x](nothing.md)\n", "utf-8"
    )
    for check in (
        test_files_and_modules_that_a_page_names_exist,
        test_links_of_a_page_lead_to_what_exists,
        test_settings_that_a_page_names_exist,
    ):
        with pytest.raises(AssertionError, match="page.md"):
            check(page)
    assert not is_module_or_name("bort.search.fptas.nothing")
    assert is_module_or_name("bort.search.fptas.Selection")
