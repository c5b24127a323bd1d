"""Every command of README and the tutorials runs, with tiny settings appended, in their order."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import shown_commands as shown
from embeddings_layout import write_layout

import bort
from bort.__main__ import COMMANDS
from bort.config.command_line import parse_command
from bort.config.overrides import to_overrides
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.pipeline.plan import plan_stages
from bort.pipeline.settings import PipelineConfig
from bort.text.tokenizer import train_tokenizer

ROOT = shown.ROOT
TUTORIALS = ROOT / "docs" / "tutorials"
NAVIGATION = re.findall(r"tutorials/(\w+)\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
README = ROOT / "README.md"
LINES = [f"Line {k}: the cube of {k} is {k**3}, a film to remember" for k in range(120)]
FILM = [("fine", "dull")[k % 2] for k in range(60)]


def commands_of(*pages: Path) -> list:
    """The commands of pages in their order, as parameters of a test; each once."""
    seen: dict[str, object] = {}
    for page in pages:
        for words in shown.list_commands(page):
            words = shown.unify(words)
            seen.setdefault(" ".join(words), pytest.param(words, id=" ".join(words)[:60]))
    return list(seen.values())


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[shown.Runner]:
    runner = shown.Runner.start(tmp_path_factory.mktemp("cache"))
    yield runner
    runner.stop()


def write_model(folder: Path, seed: int) -> None:
    """A masked LM with a tokenizer of its own, whose states differ from text to text."""
    sizes = ModelConfig(**vars(Arch(2, 2, 32, 32)), vocab_size=300, positions=64)
    model = build_model(sizes, "paper", seed)
    for parameter in model.parameters():
        parameter.data.mul_(6)
    save_model(model, train_tokenizer(LINES, 300), folder)


def write_files(folder: Path) -> None:
    """What a reader of the pages has: texts, tables, models; their names are those of the pages."""
    for name in ("texts", "my_texts"):
        (folder / name).mkdir()
        (folder / name / "a.txt").write_text("\n".join(LINES))
    rows = [f"a {word} film number {k},{word},{word},{word},one {k}" for k, word in enumerate(FILM)]
    head = "review,sentiment,stars,label,text"  # the names in the tutorials, in README, by default
    (folder / "reviews.csv").write_text("\n".join([head, *rows]) + "\n")
    (folder / "new.csv").write_text("id,review\n1,a fine film\n2,a dull one\n")
    texts = [f"some {word} film or other, {k}" for k, word in enumerate(FILM)]
    for name in ("more_reviews.txt", "new.txt", "texts.txt"):
        (folder / name).write_text("\n".join(texts) + "\n")
    for seed, name in enumerate(("teacher", "FOLDER", "roberta-large", "bert-large-uncased")):
        write_model(folder / name, seed)
    write_model(folder / "EMBEDDER", 9)
    write_layout(folder / "EMBEDDER", mean_tokens=True)
    write_glue(folder / "glue_data")


def write_glue(folder: Path) -> None:
    """Some rows of three tasks, as their official files have them."""
    labels = ("entailment", "not_entailment")
    pairs = [(k, f"one film {k}", f"film {k} is one", labels[k % 2]) for k in range(12)]
    rte = [("index", "sentence1", "sentence2", "label"), *pairs]
    cola = [("gj", k % 2, "*", f"a film {k} is seen") for k in range(12)]
    head = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    mrpc = [head, *((k % 2, k, k + 50, f"one film {k}", f"film {k}") for k in range(12))]
    tests = {
        "RTE": [row[:3] for row in rte],
        "CoLA": [("index", "sentence"), *((k, f"a film {k}") for k in range(3))],
        "MRPC": [("index", *head[1:]), *((k, k, k, f"film {k}", "b") for k in range(3))],
    }
    for name, rows in {"RTE": rte, "CoLA": cola, "MRPC": mrpc}.items():
        (folder / name).mkdir(parents=True)
        for split, lines in {"train": rows, "dev": rows, "test": tests[name]}.items():
            text = "\n".join("\t".join(map(str, line)) for line in lines)
            (folder / name / f"{split}.tsv").write_text(text + "\n")


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """The folder in which a reader follows the tutorials, one after the other."""
    folder = tmp_path_factory.mktemp("reader")
    write_files(folder)
    return folder


def run_shown(runner: shown.Runner, words: list[str], folder: Path) -> None:
    """Run a command with tiny settings appended; what it cannot run here is checked instead."""
    if words[0] == "python":
        result = subprocess.run(
            [sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0 and result.stdout, result.stderr
        return
    assert words[0] == "bort" and words[1] in COMMANDS, words
    if words[1] == "pipeline":  # five commands, which tests/pipeline runs as a whole
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert len(plan_stages(parse_command(PipelineConfig, words[2:]))) == 5
        return
    code, printed = runner.run(shown.shrink(words), folder)
    assert code == 0, printed[-3000:]


TUTORIAL_COMMANDS = commands_of(*(TUTORIALS / f"{name}.md" for name in NAVIGATION))


def test_every_tutorial_is_in_the_navigation_and_shows_commands():
    assert {path.stem for path in TUTORIALS.glob("*.md")} == set(NAVIGATION)
    assert len(NAVIGATION) == 7 and len(TUTORIAL_COMMANDS) > 25
    for name in NAVIGATION:
        assert list(shown.list_commands(TUTORIALS / f"{name}.md"))


@pytest.mark.parametrize("words", [c for c in TUTORIAL_COMMANDS if c.values[0][0] != "uvicorn"])
def test_a_command_of_a_tutorial_runs(runner, reader, words):
    run_shown(runner, words, reader)


def list_made(words: list[str]) -> list[list[str]]:
    """The commands that a target of the Makefile runs, once .venv is set up."""
    result = shown.print_made("-o", ".venv/.bort-installed", *words[1:])
    assert result.returncode == 0, result.stderr
    return [shown.unify(shlex.split(line)) for line in result.stdout.splitlines()]


README_COMMANDS = commands_of(README)


def test_readme_shows_commands():
    programs = {command.values[0][0] for command in README_COMMANDS}
    assert len(README_COMMANDS) > 5 and programs <= {"bort", "python", "make"}


@pytest.mark.parametrize("words", README_COMMANDS)
def test_a_command_of_readme_runs(runner, reader, words):
    for command in list_made(words) if words[0] == "make" else [words]:
        if command not in [shared.values[0] for shared in TUTORIAL_COMMANDS]:
            run_shown(runner, command, reader)


@pytest.mark.filterwarnings("ignore:.*litlogger.*")
def test_python_of_the_quickstart_runs(runner, reader, monkeypatch, capsys):
    """With the settings of its commands, so that it finds their finished runs."""
    run = bort.run

    def run_tiny(experiment: str, **settings) -> bort.RunResult:
        words = ["bort", "train", f"experiment={experiment}", *to_overrides(settings)]
        return run(experiment, *shown.shrink(words)[3:])

    monkeypatch.setattr(bort, "run", run_tiny)
    monkeypatch.chdir(reader)
    (block,) = shown.list_blocks(TUTORIALS / "quickstart.md", "python")
    exec(compile(block, "quickstart.md", "exec"), {})
    assert "'label': " in capsys.readouterr().out


# ------------------------------------------------------------------------------------ the service


@pytest.fixture(scope="module")
def service(runner, reader) -> Path:
    """The exported folder of the tutorial with its serve.py; made here if no test has done so."""
    folder = reader / "service"
    for command in TUTORIAL_COMMANDS:
        if not folder.is_dir():
            run_shown(runner, command.values[0], reader)
    (code, _) = shown.list_blocks(TUTORIALS / "deploy.md", "python")
    (folder / "serve.py").write_text(code)
    return folder


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_the_service_of_the_tutorial_answers_without_torch(service, tmp_path):
    """The command, the client and the code are those of the page; the port is a free one."""
    pytest.importorskip("fastapi")
    for name in ("torch", "transformers", "bort"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not in the image')")
    (words,) = [c.values[0] for c in TUTORIAL_COMMANDS if c.values[0][0] == "uvicorn"]
    port = str(find_free_port())
    command = [sys.executable, "-m", *words, "--port", port]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(command, cwd=service, env=environment, **pipes)
    try:
        (_, client) = shown.list_blocks(TUTORIALS / "deploy.md", "python")
        client = client.replace("8000", port)
        for _ in range(200):
            if server.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", int(port))) == 0:
                    break
            time.sleep(0.2)
        assert server.poll() is None, server.stdout.read()
        result = subprocess.run(
            [sys.executable, "-c", client], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        answers = eval(result.stdout, {})
        assert [set(answer) for answer in answers] == [{"label", "score"}] * 2
        assert {answer["label"] for answer in answers} <= {"fine", "dull"}
        request = Request(f"http://localhost:{port}/predict", b'{"texts": []}')
        request.add_header("Content-Type", "application/json")
        with pytest.raises(OSError, match="422"):
            urlopen(request)
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_the_image_has_what_the_service_imports(service):
    """Each package of the Dockerfile, and no other, is imported by serve.py and predict.py."""
    (dockerfile,) = shown.list_blocks(TUTORIALS / "deploy.md", "dockerfile")
    assert "pip install --no-cache-dir -r requirements.txt fastapi uvicorn" in dockerfile
    pinned = (service / "requirements.txt").read_text("utf-8")
    installed = {*re.findall(r"^(\w+)", pinned, re.MULTILINE), "fastapi", "uvicorn"}
    sources = [(service / name).read_text("utf-8") for name in ("serve.py", "predict.py")]
    names = re.findall(r"^ *(?:import|from) (\w+)", "\n".join(sources), re.MULTILINE)
    third = set(names) - set(sys.stdlib_module_names) - {"predict", "pydantic"}  # of fastapi
    assert third | {"uvicorn"} == installed
    assert '"uvicorn", "serve:app"' in dockerfile and "COPY . ." in dockerfile
    code, _ = shown.list_blocks(TUTORIALS / "deploy.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
