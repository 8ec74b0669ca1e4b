"""Without the hub, what is not here is said at once and in one line; with it, nothing changes."""

import contextlib
import hashlib
import os
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reasoning import hub
from reasoning.engines.preflight import open_tokens
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.hub import Absence, hub_or_cache, reason, refusal
from reasoning.tasks import load_problems
from reasoning.train.fresh import new_model

constants = pytest.importorskip("huggingface_hub.constants")
datasets_config = pytest.importorskip("datasets.config")
transformers_hub = pytest.importorskip("transformers.utils.hub")
hf_api = pytest.importorskip("huggingface_hub.hf_api")

COMMIT = "c" * 40


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """Sets the hub's address, with a cache that is empty."""
    monkeypatch.setattr(hub, "_known", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def to(address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(hf_api.api, "endpoint", address)  # these took it when they were imported
        monkeypatch.setattr(datasets_config, "HF_ENDPOINT", address)
        monkeypatch.setattr(transformers_hub, "_hf_api", None, raising=False)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )

    return to


@contextmanager
def serving(answer):
    """The address of a server whose ``answer(request)`` is (status, headers, body) and the paths asked for; what the
    client asks about itself is not there."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if "/api/" in self.path:
                status, headers, body = 404, {}, b""
            else:
                asked.append(f"{self.command} {self.path}")
                status, headers, body = answer(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def always(status, headers=(), body=b"{}"):
    return lambda request: (status, dict(headers), body)


def files_of(folder):
    """As the hub answers for a repository with the files of ``folder``."""

    def answer(request):
        path = folder / request.path.partition("?")[0].rpartition("/")[2]
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        body = path.read_bytes()
        mark = hashlib.sha256(body).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{mark}"'}, body

    return answer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in new_model("new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48", ["Q: 1+1? 2"], 0):
        part.save_pretrained(folder)
    return folder


def test_a_hub_that_is_not_there_is_said_at_once_and_only_once_asked(endpoint, monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    endpoint(f"http://127.0.0.1:{port}")  # where nobody listens any more
    asked, really = [], hub._asked
    monkeypatch.setattr(hub, "_asked", lambda *asking: asked.append(asking) or really(*asking))
    words = rf"no folder 'nobody/nothing' here, the hub cannot be asked \(http://127.0.0.1:{port}: .*give a folder"
    with pytest.raises(UserError, match=words):
        TransformersEngine.open("nobody/nothing")
    with pytest.raises(UserError, match=words):
        open_tokens("transformers:nobody/nothing")
    with pytest.raises(UserError, match="'nobody/else' here, the hub cannot be asked"):
        open_tokens("transformers:nobody/else")
    assert len(asked) == 1
    assert not constants.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ


def test_one_that_never_answers_is_not_waited_for(endpoint, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with hub_or_cache(True, "some/model") as away:
            assert away is not None
            assert "0.2 s" in away.why or "timed out" in away.why
            assert constants.HF_HUB_OFFLINE
            assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_what_answers_in_no_protocol_is_said(endpoint, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 2.0)
    with socket.socket() as noise:
        noise.bind(("127.0.0.1", 0))
        noise.listen()

        def speak():
            with contextlib.suppress(OSError):  # the end of the test closes the socket
                while True:
                    connection, _ = noise.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"\x00\x01 hello\r\n\r\n")

        threading.Thread(target=speak, daemon=True).start()
        endpoint(f"http://127.0.0.1:{noise.getsockname()[1]}")
        with pytest.raises(UserError, match="the hub cannot be asked") as said:
            TransformersEngine.open("some/model")
        assert "\n" not in str(said.value)


GATED = {"X-Error-Code": "GatedRepo"}
NO_SUCH = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}


@pytest.mark.parametrize(
    ("answer", "why", "do"),
    [
        (always(500), "the hub has trouble (500)", "Try again in some minutes"),
        (always(503), "the hub has trouble (503)", "Try again in some minutes"),
        (always(429), "the hub has had too many requests (429)", "Try again in some minutes"),
        (always(429, {"Retry-After": "120"}), "too many requests (429)", "Try again in 120 s"),
        (always(401), "the hub refuses '{}' (401, HF_TOKEN is not set)", "Set HF_TOKEN"),
        (always(403), "the hub refuses '{}' (403, HF_TOKEN is not set)", "Set HF_TOKEN"),
        (
            always(401, GATED),
            "the hub gives '{}' only to those it has let in (401",
            "Ask for access on its page",
        ),
        (
            always(403, GATED),
            "the hub gives '{}' only to those it has let in (403",
            "Ask for access on its page",
        ),
        (always(404, NO_SUCH), "the hub has no '{}', or shows it to others only (404", "Check the name"),
        (always(401, NO_SUCH), "the hub has no '{}', or shows it to others only (401", "Check the name"),
        (always(404), "the hub has no '{}', or shows it to others only (404", "Check the name"),
        (always(410), "the hub answers 410 for '{}'", "Check the name and HF_ENDPOINT"),
        (always(200, body=b"<html>log in</html>"), "is no hub", "Check HF_ENDPOINT"),
        (always(302, {"Location": "http://127.0.0.1:9/login"}), "is no hub", "Check HF_ENDPOINT"),
    ],
)
def test_what_a_hub_refuses_is_said_in_one_line_within_seconds(endpoint, monkeypatch, answer, why, do):
    monkeypatch.delenv("REASONING_DATA", raising=False)
    monkeypatch.setattr(hub, "SECONDS", 2.0)
    monkeypatch.setattr(hub, "PAUSE", 0.2)
    with serving(answer) as (address, asked):
        endpoint(address)
        for name, opening in (
            ("some/model", lambda: TransformersEngine.open("some/model")),
            ("some/model", lambda: open_tokens("transformers:some/model")),
            ("openai/gsm8k", lambda: load_problems("gsm8k:test")),
        ):
            began = time.monotonic()
            with pytest.raises(UserError) as said:
                opening()
            text = str(said.value)
            assert why.format(name) in text, text
            assert f"{do}" in text
            assert "\n" not in text
            assert len(text) < 400
            assert time.monotonic() - began < hub.SECONDS + 5
        assert len(asked) < 16
        assert not constants.HF_HUB_OFFLINE


def test_a_busy_hub_is_asked_again_for_a_moment(endpoint, model):
    answers = iter([503, 429])
    files = files_of(model)

    def answer(request):
        status = next(answers, 0)
        return (status, {}, b"") if status else files(request)

    with serving(answer) as (address, asked):
        endpoint(address)
        engine = TransformersEngine.open("some/model")
        assert engine.model == f"some/model@{COMMIT[:12]}"  # another commit has other weights
        assert asked[:3] == ["HEAD /some/model/resolve/main/config.json"] * 3


def test_what_was_fetched_is_taken_when_the_hub_has_trouble(endpoint, model, monkeypatch):
    down = []
    files = files_of(model)
    with serving(lambda request: (503, {}, b"") if down else files(request)) as (address, asked):
        endpoint(address)
        first = TransformersEngine.open("some/model")
        assert any(line.startswith("GET ") for line in asked)
        down.append(True)
        monkeypatch.setattr(hub, "_known", {})
        del asked[:]
        assert TransformersEngine.open("some/model").model == first.model
        assert set(asked) == {"HEAD /some/model/resolve/main/config.json"}


def test_a_token_goes_with_the_question(endpoint, model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    files = files_of(model)

    def answer(request):
        return files(request) if request.headers["Authorization"] == "Bearer hf_right" else (401, GATED, b"")

    with serving(answer) as (address, _):
        endpoint(address)
        TransformersEngine.open("some/model")
        monkeypatch.setattr(hub, "_known", {})
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(UserError, match="let in \\(401, HF_TOKEN is set\\)"):
            TransformersEngine.open("other/model")


def test_trouble_after_the_first_file_is_said_by_its_answer(endpoint):
    def answer(request):
        return (
            (200, {"X-Repo-Commit": COMMIT, "ETag": '"a"'}, b"{}")
            if request.command == "HEAD"
            else (403, {}, b"")
        )

    with serving(answer) as (address, _):
        endpoint(address)
        with pytest.raises(UserError, match="the hub refuses 'some/model' \\(403") as said:
            TransformersEngine.open("some/model")
        assert "\n" not in str(said.value)


def test_a_repository_without_the_file_that_is_asked_for_is_there(endpoint):
    missing = always(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
    for answer in (
        missing,
        always(404),
        always(307, {"Location": "/renamed/model/resolve/main/config.json"}),
    ):
        with serving(answer) as (address, _):
            endpoint(address)
            with hub_or_cache(True, "some/model") as away:
                assert away is None
                assert not constants.HF_HUB_OFFLINE


def test_a_revision_that_is_not_there(endpoint):
    with serving(always(404, {"X-Error-Code": "RevisionNotFound"})) as (address, asked):
        endpoint(address)
        with hub_or_cache(True, "some/data", "dataset", "v9") as away:
            assert away == Absence("the hub has no such revision of 'some/data' (404)", "check the revision")
        assert asked == ["HEAD /datasets/some/data/resolve/v9/README.md"]


def test_what_is_here_needs_no_hub(endpoint, monkeypatch):
    monkeypatch.setattr(hub, "_asked", pytest.fail)
    with hub_or_cache(False, "folder") as away:
        assert away is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_or_cache(True, "some/model") as away:
        assert away is not None
        assert "HF_HUB_OFFLINE is set" in reason("some/model", away, OSError("offline"))


def test_an_error_that_no_answer_led_to_keeps_its_first_line():
    error = OSError("\nno such tensor\nat line 3")
    assert refusal("x/y", error) is None
    assert reason("x/y", None, error) == "no such tensor"
