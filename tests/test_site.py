"""The site of docs/: a reference of every setting, pages for every file, nothing loaded."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from bort.__main__ import COMMANDS
from bort.config.search import SearchRunConfig
from bort.config.train import RUN_CONFIGS, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
HOOKS = ROOT / "docs" / "hooks"


@pytest.fixture(scope="module")
def reference():
    """The module that makes the pages of the reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOOKS))
        import reference

        yield reference


@pytest.fixture(scope="module")
def pages(reference) -> dict[str, str]:
    return reference.build_pages()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    pytest.importorskip("mkdocs", reason="make docs needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def list_leaves(schema: Any, prefix: str = "") -> set[str]:
    """The full keys of a dataclass's settings, without the help of what makes the reference."""
    keys = set()
    for field in fields(schema):
        hint = get_type_hints(schema)[field.name]
        inner = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
        name = f"{prefix}{field.name}"
        keys |= list_leaves(inner[0], f"{name}.") if inner else {name}
    return keys


def list_all_keys(schema: Any) -> set[str]:
    trainer = yaml.safe_load((ROOT / "conf" / "trainer" / "default.yaml").read_text("utf-8"))
    lightning = {f"trainer.{key}" for key in trainer if key != "_target_"}
    return (list_leaves(schema) - {"trainer"}) | lightning


def keys_of(page: str) -> dict[str, list[str]]:
    """The settings of a page, and the other cells of their rows."""
    rows = re.findall(r'^\| <span id="[^"]+">`([^`]+)`</span> \| (.+) \|$', page, re.MULTILINE)
    return {key: cells.split(" | ") for key, cells in rows}


def test_every_setting_of_train_is_on_the_page_of_a_job(reference, pages):
    assert set(reference.EXPERIMENTS) == set(RUN_CONFIGS)
    experiments = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert {name for names in reference.EXPERIMENTS.values() for name in names} == experiments
    shown = set()
    for job in RUN_CONFIGS:
        keys = keys_of(pages[f"reference/train-{job}.md"])
        assert len(keys) > 60
        shown |= set(keys)
    assert shown == list_all_keys(TrainConfig)


def test_a_page_has_what_its_job_can_use_and_nothing_else(pages):
    pretrain = keys_of(pages["reference/train-pretrain.md"])
    finetune = keys_of(pages["reference/train-finetune.md"])
    search = keys_of(pages["reference/search.md"])
    assert {"data.path", "distill.w_kd", "teacher.max_steps", "model"} <= set(pretrain)
    assert not {"agora.rounds", "data.train", "head", "compare.lrs"} & set(pretrain)
    assert {"data.train", "data.windows", "data.window_stride", "patience"} <= set(finetune)
    assert not {"distill.w_kd", "data.unlabelled", "agora.rounds"} & set(finetune)
    assert {"search.n", "latency.path", "latency.shapes", "grid.depth"} <= set(search)
    assert not {"task", "trainer.max_steps"} & set(search)
    left_out = list_all_keys(SearchRunConfig) - set(search)
    assert not {key for key in left_out if key.startswith(("search.", "latency.", "grid."))}


def test_values_are_those_of_the_experiment(pages):
    pretrain = keys_of(pages["reference/train-pretrain.md"])
    assert pretrain["data.batch_size"][1] == "`8`<br>teacher_pretrain: `16`<br>paper: `16`"
    assert pretrain["teacher.name"][1] == "`null`<br>paper: `roberta-large`"
    assert pretrain["arch.hidden"][1].startswith("`64`<br>teacher_pretrain: `128`")
    task = keys_of(pages["reference/train-kd_finetune.md"])
    assert task["teacher.name"][1] == "–"  # it has to be given
    assert keys_of(pages["reference/export.md"])["format"][:2] == ["text, or null", "`null`"]
    assert keys_of(pages["reference/search.md"])["search.n"][:2] == ["whole number", "`300`"]


def test_every_command_has_a_page_with_all_its_settings(reference, pages):
    for command in COMMANDS:
        name = "train-pretrain" if command == "train" else command
        assert f"reference/{name}.md" in pages
    for command in reference.MODULES:
        schema = reference.find_schema(command)
        keys = {key.lower().rstrip(" …") for key in keys_of(pages[f"reference/{command}.md"])}
        assert keys == list_leaves(schema), command


def test_no_setting_is_without_a_type_and_an_explanation(pages):
    count = 0
    for name, page in pages.items():
        for key, (kind, value, meaning) in keys_of(page).items():
            assert kind and value and len(meaning) >= 5, f"{name}: {key}"
            count += 1
    assert count > 500
    assert page_rows(pages) == count


def page_rows(pages: dict[str, str]) -> int:
    """The rows of all tables below their heads: none is lost by how this file reads them."""
    return sum(page.count("\n| <span") for page in pages.values())


def test_signs_of_html_and_markdown_are_shown_as_they_are(reference):
    assert reference.escape("a <mask> & w_kd *x* a|b") == (
        "a &lt;mask> &amp; w&#95;kd &#42;x&#42; a&#124;b"
    )
    assert reference.name_kind(list[str] | None) == "list of names, or null"
    assert reference.name_kind(int | float | None) == "number, or null"


def test_the_site_has_every_page_and_its_navigation(site):
    for path in (ROOT / "docs").rglob("*.md"):
        page = site / path.relative_to(ROOT / "docs").with_suffix(".html")
        assert page.is_file(), page
    for path in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert (site / "results" / f"{path.stem}.html").is_file()
    home = (site / "index.html").read_text("utf-8")
    assert (site / "changelog.html").is_file() and not list(site.rglob("*.py"))
    for name in ("search.html", "reference/index.html", "errors.html", "glossary.html"):
        assert f'href="{name}"' in home


def test_the_site_loads_nothing_from_the_network(site):
    """A visitor's browser asks nobody else, and the pages can be read without a network."""
    count = 0
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text("utf-8"))
        count += len(tags)
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]
    assert count > 200
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", text), sheet


def test_links_lead_to_pages_of_the_site(site):
    """A link to a file of the repository has become a link to its page, or plain text."""
    count = 0
    for page in site.rglob("*.html"):
        article = page.read_text("utf-8").partition("<article")[2].partition("</article>")[0]
        for target in re.findall(r'href="([^"#]+)(?:#[^"]*)?"', article):
            if not target.startswith(("https://", "mailto:")):
                count += 1
                assert (page.parent / target).is_file(), f"{page.name}: {target}"
    assert count > 100


def test_what_commonmark_allows_is_rewritten_for_the_site():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOOKS))
        site_pages = pytest.importorskip("site_pages", reason="make docs needs mkdocs-material")
    lines = ["Two:", "- a", "- b", "```", "x", "- y", "```", "| `a\\|<b` | c |"]
    assert list(site_pages.adapt_lines(lines)) == [
        *("Two:", "", "- a", "- b", "```", "x", "- y", "```"),
        "| <code>a&#124;&lt;b</code> | c |",
    ]
    text = "[a](../benchmarks/results/latency.md#x) [b](search.md) [c](../LICENSE)"
    moved = site_pages.LINK.sub(
        lambda match: site_pages.rewrite_link(match, "docs/export.md", "export.md"), text
    )
    assert moved == "[a](results/latency.md#x) [b](search.md) c"
