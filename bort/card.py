"""What an exported folder says of itself: export.json and README.md, its model card."""

import json
from dataclasses import dataclass
from pathlib import Path

from bort import hf
from bort.documents import versions
from bort.model import Classifier
from bort.wording import decimal


@dataclass
class Export:
    """What the checks found; it becomes export.json."""

    format: str
    largest_difference: float
    agreement: float | None = None  # share of the compared answers that are equal
    compared: int | None = None
    float32: list[str] | None = None
    scores: dict | None = None


def card(model, source: str, out: Path, found: Export) -> str:
    """README.md of the folder: what the model is, what it scored, how it is used."""
    config, folder = model.config, Path(source)
    run = _json(folder / "summary.json") | _json(folder / "settings.json")
    packages = ["bort", "torch", "transformers"] + ["onnxruntime"] * (found.format != "hf")
    facts = {
        "architecture": f"⟨{config.depth},{config.heads},{config.hidden},{config.intermediate}⟩: "
        "layers, heads, hidden, intermediate",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "vocabulary": f"{config.vocab_size:,}",
        "longest input": f"{config.positions} tokens",
    }
    keys = ("task", "model", "data.source", "data.path", "data.train", "teacher.name", "seed")
    facts |= {key: run[key] for key in keys if run.get(key) is not None}
    facts |= {k: f"{v:.4f}" for k, v in run.items() if "/" in k and isinstance(v, float)}
    facts |= {f"{k} export": decimal(v) for k, v in (found.scores or {}).items()}
    facts["format"] = f"{found.format}, checked: {found.largest_difference:.1e} off at most"
    if found.agreement is not None:
        facts["equal top answers"] = f"{found.agreement:.1%} of {found.compared:,}"
    if found.float32:
        facts["in float32"] = ", ".join(found.float32)
    facts["made with"] = ", ".join(f"{name} {v}" for name, v in versions(packages).items())
    library = "transformers" if found.format == "hf" else "onnx"
    facts["licence"] = "not stated: that of the weights it started from and of the data"
    lines = ["---", f"library_name: {library}", "---", "", f"# {out.name}", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    return "\n".join([*lines, _usage(model, found)])


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _usage(model, found: Export) -> str:
    if found.format != "hf":
        return "```\npip install numpy onnxruntime tokenizers\npython predict.py\n```\n"
    if getattr(model, "spans", 0):
        return (
            "The model takes two marked words; transformers has no class for that, bort reads it.\n"
        )
    kind = hf.classifier_kind(model) if isinstance(model, Classifier) else "ForMaskedLM"
    return (
        "```python\nfrom transformers import AutoTokenizer, "
        f'AutoModel{kind}\n\ntokenizer = AutoTokenizer.from_pretrained(".")\n'
        f'model = AutoModel{kind}.from_pretrained(".")\n```\n'
    )


def example(folder: Path) -> str:
    """Arguments of an ONNX folder's predict.py."""
    config = _json(folder / "config.json")
    kind = config["architectures"][0].partition("For")[2]
    if kind == "MaskedLM":
        return f"'a text with a {hf.load_tokenizer(folder).mask_token} in it'"
    if kind == "MultipleChoice":
        return "'a passage' 'the first option' 'the second'"
    if kind == "" and config.get("bort_texts") == 2:
        return "'The [[cup]] fell.' 'A [[cup]] of tea.'"
    if kind == "":
        return "'A [[cup]] fell. [[It]] broke.'"
    return "'a text' 'and another'" if config.get("bort_texts") == 2 else "'a text'"
