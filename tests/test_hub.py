"""Without the hub, what is not here is said at once; with it, nothing changes."""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from reasoning import hub
from reasoning.engines.preflight import open_tokens
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.hub import hub_or_cache

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def endpoint(monkeypatch):
    """Sets the hub's address."""
    monkeypatch.setattr(hub, "_last", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return lambda address: monkeypatch.setattr(constants, "ENDPOINT", address)


def test_a_hub_that_is_not_there_is_said_at_once_and_only_once_asked(endpoint, monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    endpoint(f"http://127.0.0.1:{port}")  # where nobody listens any more
    asked, really = [], hub._asked
    monkeypatch.setattr(hub, "_asked", lambda address: asked.append(address) or really(address))
    words = rf"no folder 'nobody/nothing' here, the hub cannot be asked \(http://127.0.0.1:{port}: .*give a folder"
    with pytest.raises(UserError, match=words):
        TransformersEngine.open("nobody/nothing")
    with pytest.raises(UserError, match=words):
        open_tokens("transformers:nobody/nothing")
    assert len(asked) == 1
    assert not constants.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ


def test_one_that_never_answers_is_not_waited_for(endpoint, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with hub_or_cache() as why:
            assert "0.2 s" in why or "timed out" in why
            assert constants.HF_HUB_OFFLINE
            assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_one_that_answers_whatever_it_says_is_asked(endpoint):
    class Broken(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(500)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint(f"http://127.0.0.1:{server.server_port}")
        with hub_or_cache() as why:
            assert why == ""
            assert not constants.HF_HUB_OFFLINE
        server.shutdown()


def test_what_is_here_needs_no_hub(endpoint, monkeypatch):
    monkeypatch.setattr(hub, "_asked", pytest.fail)
    with hub_or_cache(False) as why:
        assert why == ""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_or_cache() as why:
        assert why == "HF_HUB_OFFLINE is set"
