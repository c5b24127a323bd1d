"""What the tests of pages share."""

import json
import re
from html import unescape


def words(text: str) -> str:
    """What a reader sees: without scripts and tags."""
    return unescape(re.sub(r"<script.*?</script>|<[^>]+>", " ", text, flags=re.DOTALL))


def read_figures(text: str) -> list[dict]:
    """The figures of a page, as plotly's data and layout."""
    pattern = (
        r"<div class=figure [^>]*><div>[^<]*</div><script type=application/json>(.*?)</script>"
    )
    return [json.loads(content) for content in re.findall(pattern, text)]
