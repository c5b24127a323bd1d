"""Any answer counts as reachable, silence ends after the limit, and a key stays secret."""

import http.server
import socket
import threading
import time

import pytest

from bort import network


class NotFound(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_reachable_is_any_answer():
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.handle_request).start()
        assert network.check_reachable(f"http://127.0.0.1:{server.server_port}") == "reachable"


def test_closed_port_is_not_reachable():
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        answer = network.check_reachable(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert answer.startswith("not reachable: ") and "efused" in answer


@pytest.mark.parametrize("part", ["name", "server"])
def test_silence_ends_after_the_limit(part, monkeypatch):
    looked_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, never answers
        if part == "name":  # a resolver that hangs knows no time limit
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: looked_up.wait(20) and [])
        start = time.monotonic()
        answer = network.check_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        seconds = time.monotonic() - start
        looked_up.set()
    assert answer.startswith("not reachable: ") and seconds < 2


def test_the_hub_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(
        network, "check_reachable", lambda url: asked.append(url) or "not reachable: x"
    )
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    network.is_hub_reachable.cache_clear()
    try:
        assert not network.is_hub_reachable() and not network.is_hub_reachable()
        assert asked == ["http://127.0.0.1:9"]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert network.check_hub() == "HF_HUB_OFFLINE is set" and len(asked) == 1
    finally:
        network.is_hub_reachable.cache_clear()


def test_wandb_key_is_found_by_host(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "keys"
    monkeypatch.setenv("NETRC", str(file))
    assert network.find_wandb_key("api.wandb.ai").startswith("none")
    file.write_text("machine api.wandb.ai login user password secret\n")
    file.chmod(0o600)
    assert network.find_wandb_key("api.wandb.ai") == f"in {file}"
    assert network.find_wandb_key("wandb.example.org").startswith("none")
