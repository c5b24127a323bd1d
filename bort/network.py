"""Whether the hub and wandb answer, and whether wandb has a key: standard library alone."""

import os
import threading
from functools import cache
from pathlib import Path

NETWORK_SECONDS = 3.0


def check_reachable(url: str, seconds: float = NETWORK_SECONDS) -> str:
    """One attempt, in a thread: no timeout of a socket limits the look-up of a name."""
    import urllib.error
    import urllib.request

    answer: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()
            answer.append("reachable")
        except urllib.error.HTTPError:
            answer.append("reachable")  # any answer is one
        except (OSError, ValueError) as e:
            answer.append(f"not reachable: {getattr(e, 'reason', e)}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else f"not reachable: no answer within {seconds:g} s"


def find_hub_address() -> str:
    """Return the address of the hub, which HF_ENDPOINT may change."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def check_hub() -> str:
    """`reachable`, or why not."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    return check_reachable(find_hub_address())


@cache
def is_hub_reachable() -> bool:
    """Whether the hub answers within 3 s, asked once; its own client retries for 23 s per file."""
    return check_hub() == "reachable"


def find_wandb_key(host: str) -> str:
    """Where wandb finds a key, never the key itself."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return "in WANDB_API_KEY"
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in (Path(os.path.expanduser(name)) for name in files if name):
        try:
            if netrc.netrc(file).authenticators(host):
                return f"in {file}"
        except (OSError, netrc.NetrcParseError):
            continue
    return "none: logger=wandb stays offline"
