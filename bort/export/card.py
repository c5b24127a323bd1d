"""What an exported folder says of itself: export.json and README.md, its model card."""

import re
import shlex
from pathlib import Path
from typing import Any

from bort.console import decimal
from bort.embeddings.embedder import Embedder
from bort.export.result import ExportResult
from bort.files.untrusted import read_json
from bort.models import hf_config
from bort.models.bert import POOLED_HEADS, Classifier
from bort.models.huggingface import load_tokenizer
from bort.models.weight_names import name_class
from bort.runs.baselines import read_baselines
from bort.runs.origin import UNKNOWN, hide_folders, list_licences, list_origins, list_scores
from bort.text.sources import read_versions

# What Markdown or HTML may read as markup, and where an address starts that it makes a link of.
MARKUP = re.compile(r"[&<>|\[\]`*#\\~!]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
LONGEST = 300  # characters of a value


def escape_markdown(value: Any) -> str:
    """Return a text that Markdown shows letter by letter, on one line, also in a cell of a table.

    No markup, tag or link in it works.
    """
    text = " ".join(str(value).split())
    text = "".join(letter for letter in text if letter.isprintable())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)


def format_card(
    model, source: str, run: dict[str, Any], out: Path, result: ExportResult, example: str = ""
) -> str:
    """Return README.md of the folder: what the model is, where it came from, its scores, its use.

    source: the model as the user named it; run: what `origin.read_facts` says of it; example: the
    arguments of predict.py, see `format_example`.
    """
    config = model.config
    packages = ["bort", "torch", "transformers"] + ["onnxruntime"] * (result.format != "hf")
    facts = {
        "architecture": f"{config.arch}: layers, heads, hidden, intermediate",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "vocabulary": f"{config.vocab_size:,}{_describe_trimming(run)}",
        "longest input": f"{config.limit} tokens{_describe_windows(run)}",
    }
    if isinstance(run.get("data.length"), int):
        facts["trained at"] = f"{run['data.length']} tokens"
    facts |= {"exported from": hide_folders(source)} | list_origins(run) | list_scores(run)
    facts |= {baseline.title: baseline.describe() for baseline in read_baselines(run)}
    for key, value in (result.scores or {}).items():
        when, _, metric = key.partition("/")
        facts[f"val/{metric} {when} export"] = decimal(value)
    facts["format"] = f"{result.format}, checked: {result.largest_difference:.1e} off at most"
    if result.compared is not None:
        facts["int8"] = f"{result.describe_agreement()} ({result.answers})"
    if result.float32:
        facts["in float32"] = ", ".join(result.float32)
    facts["made with"] = ", ".join(f"{name} {v}" for name, v in read_versions(packages).items())
    library = "transformers" if result.format == "hf" else "onnx"
    if isinstance(model, Embedder):
        facts["embedding"] = f"{model.config.hidden * len(model.pooling.modes)} numbers a text"
        library = "sentence-transformers" if result.format == "hf" else library
    facts |= list_licences(run) or {"licence": UNKNOWN}
    lines = ["---", f"library_name: {library}", "---", "", f"# {escape_markdown(out.name)}", ""]
    rows = (
        f"| {escape_markdown(key)} | {escape_markdown(value)} |" for key, value in facts.items()
    )
    return "\n".join(
        [*lines, "| | |", "|---|---|", *rows, "", _format_usage(model, result, example)]
    )


def _describe_windows(run: dict[str, Any]) -> str:
    """Return what follows the longest input of a model that reads longer texts in windows."""
    stride = hf_config.read_window_stride(run)
    if stride is None:
        return ""
    return (
        f"; a longer text is divided into windows that share {stride}, and their logits are "
        "averaged (bort.load and predict.py do so, transformers cuts it)"
    )


def _describe_trimming(run: dict[str, Any]) -> str:
    """Return what follows the size of a vocabulary that was trimmed in this run."""
    full = run.get("full_vocab_size")
    return f" of {full:,} tokens, those that the text uses most" if type(full) is int else ""


def _format_usage(model, result: ExportResult, example: str) -> str:
    """Return the commands that use the folder, as Markdown."""
    if result.format != "hf":
        return _format_shipped_usage(example)
    if isinstance(model, Embedder):
        return (
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer(".")\nembeddings = model.encode(["a text"])\n```\n'
        )
    if getattr(model, "spans", 0):
        return (
            "The model takes two marked words; transformers has no class for that, bort reads it.\n"
        )
    if isinstance(model, Classifier) and model.head in POOLED_HEADS:
        return (
            f"Its head ({model.head}) takes the mean state of all tokens, and transformers has no "
            "class for that: AutoModel opens the encoder, and bort.load the whole model.\n"
        )
    kind = name_class(model) if isinstance(model, Classifier) else "ForMaskedLM"
    return (
        "```python\nfrom transformers import AutoTokenizer, "
        f'AutoModel{kind}\n\ntokenizer = AutoTokenizer.from_pretrained(".")\n'
        f'model = AutoModel{kind}.from_pretrained(".")\n```\n'
    )


def _format_shipped_usage(example: str) -> str:
    """Return the commands and the lines of Python that use an ONNX folder's predict.py."""
    words = shlex.split(example)
    first, *more = map(repr, words)
    row = f"({first}, {more[0]})" if len(more) == 1 else first
    if len(more) > 1:  # a passage and its options
        row = ", ".join(f"({first}, {option})" for option in more)
    commands = ["pip install -r requirements.txt", f"python predict.py {example}".rstrip()]
    if len(more) < 2:
        commands.append("python predict.py input=new.csv out=answers.csv")
    python = ["from predict import Model", "", "model = Model()", f"print(model.predict([{row}]))"]
    blocks = ["```", *commands, "```", "", "```python", *python, "```", ""]
    return "\n".join(blocks)


def format_example(folder: Path) -> str:
    """Return arguments of an ONNX folder's predict.py that its model can answer."""
    path = folder / "config.json"
    config = read_json(path)
    kind = hf_config.read_kind(config, path)
    if kind == hf_config.EMBEDDING:
        return "'a text'"
    if kind == "MaskedLM":
        mask = str(load_tokenizer(folder).mask_token)
        mask = mask if mask.isprintable() and "`" not in mask else "[MASK]"  # it ends no code block
        return shlex.quote(f"a text with a {mask} in it")
    if kind == "MultipleChoice":
        return "'a passage' 'the first option' 'the second'"
    if kind == "" and config.get("bort_texts") == 2:
        return "'The [[cup]] fell.' 'A [[cup]] of tea.'"
    if kind == "":
        return "'A [[cup]] fell. [[It]] broke.'"
    return "'a text' 'and another'" if config.get("bort_texts") == 2 else "'a text'"
