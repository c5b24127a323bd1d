"""What the build of the site does beyond docs/: further pages, their links, and signs that differ.

README.md is the home page, CHANGELOG.md and the tables of benchmarks/results are pages of their
own, and the reference is made from the source. In the repository, all links are those of files, so
that a code host follows them too; here each leads to the page that a file has become.
"""

import html
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import build_pages

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://|#)([^)\s#]*)(#[^)\s]*)?\)")


def list_sources() -> dict[str, str]:
    """Return the files outside of docs/ that are pages, and their paths in the site."""
    pages = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        pages[f"benchmarks/results/{path.name}"] = f"results/{path.name}"
    return pages


def locate_page(path: str) -> str | None:
    """Return where a file of the repository is in the site; None where it is not in it."""
    if path == "benchmarks/results":
        return "results.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return list_sources().get(path)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    for name, page in list_sources().items():
        content = (ROOT / name).read_text("utf-8")
        files.append(File.generated(config, page, content=content))
    for page, content in build_pages().items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page as the site's reader of Markdown takes it, with its links."""
    here = page.file.src_uri
    if here.startswith("reference/"):
        return markdown
    pages = {uri: name for name, uri in list_sources().items()}
    source = pages.get(here, f"docs/{here}")
    text = LINK.sub(lambda match: rewrite_link(match, source, here), markdown)
    return "\n".join(adapt_lines(text.splitlines()))


def adapt_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines in which what CommonMark allows is written as Python-Markdown wants it.

    A list that follows a paragraph gets an empty line before it, and code of a table's cell that
    holds the table's own sign is written in HTML.
    """
    is_code, before = False, ""
    for line in lines:
        is_code ^= line.startswith("```")
        begins_list = re.match(r"(- |\d+\. )", line) and not re.match(r"(- |\d+\. |  )", before)
        if begins_list and before and not is_code:
            yield ""
        if line.startswith("|") and not is_code:
            line = re.sub(r"`([^`]*\\\|[^`]*)`", spell_code, line)
        yield line
        before = line


def spell_code(match: re.Match) -> str:
    """Return code of a table's cell as HTML."""
    return f"<code>{html.escape(match[1].replace(chr(92), '')).replace('|', '&#124;')}</code>"


def rewrite_link(match: re.Match, source: str, here: str) -> str:
    """Return a link of the file `source` as it is on its page `here`.

    A link to a file that is no page becomes plain text: the site does not hold the repository.
    """
    words, path, anchor = match.groups()
    target = os.path.normpath(PurePosixPath(source).parent / path)
    page = locate_page(target)
    if page is None:
        return words
    relative = os.path.relpath(page, PurePosixPath(here).parent)
    return f"[{words}]({relative}{anchor or ''})"
