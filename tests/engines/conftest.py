"""Fixtures of several tests of engines: a server on loopback, and the engine 'openai' opened on it."""

import pytest
from openai_fake import FakeServer

from reasoning.engines import open_engine


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


@pytest.fixture
def opened():
    engines = []

    def connect(fake, options="", name="m"):
        quick = "backoff=0.02,timeout=5"
        engine = open_engine(f"openai:{name}:base_url={fake.url},{quick}" + f",{options}" * bool(options))
        engines.append(engine)
        return engine

    yield connect
    for engine in engines:
        engine.close()
        engine.close()  # safe twice
