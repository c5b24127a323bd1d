"""Writes the files of sentence-transformers into the folder of an encoder."""

import json
from pathlib import Path

LIBRARY = "sentence_transformers.models"


def write_layout(
    folder: Path, kinds: str = "Transformer Pooling Normalize", encoder: str = "", **pooling: bool
) -> Path:
    """Write the files of the layout; pooling: the modes, without `pooling_mode_` in front."""
    paths = {"Transformer": encoder, "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {
            "name": str(k),
            "path": paths.get(kind, f"{k}_{kind}"),
            "type": f"{LIBRARY}.{kind}",
        }
        for k, kind in enumerate(kinds.split())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": value for name, value in pooling.items()}
    content = json.dumps({"word_embedding_dimension": 32, **modes})
    (folder / "1_Pooling" / "config.json").write_text(content)
    return folder
