"""What the tests of pages share."""

import re
from html import unescape


def words(text: str) -> str:
    """What a reader sees: without scripts and tags."""
    return unescape(re.sub(r"<script.*?</script>|<[^>]+>", " ", text, flags=re.DOTALL))
