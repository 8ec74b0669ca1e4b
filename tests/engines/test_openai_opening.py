"""Opening the engine 'openai': addresses, models, keys."""

import sys
import time

import pytest
from openai_fake import PLAIN, PROBLEMS, draws

from reasoning.budget import Ledger
from reasoning.engines import open_engine
from reasoning.engines.openai_server import seconds_until
from reasoning.errors import EngineError, MissingExtra, UserError
from reasoning.pool import Pool
from reasoning.sampling import sample

# --- opening ----------------------------------------------------------------------------------------------


def test_without_the_client_the_extra_is_named(fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reasoning-toolkit\[openai\]'"):
        open_engine(f"openai:m:base_url={fake.url}")


def test_an_unknown_model_is_told_what_there_is(fake, opened):
    fake.owner, fake.models = "vllm", ("Qwen/Qwen3-8B", "lora-1")
    with pytest.raises(UserError, match=r"Unknown model at http.*Did you mean 'Qwen/Qwen3-8B'"):
        opened(fake, name="Qwen/Qwen3-8b")
    fake.owner = "someone"  # who may take names that it does not list
    fake.answer = lambda asked: asked.error(404, "no such model")
    with pytest.raises(UserError, match="It offers: Qwen/Qwen3-8B, lora-1"):
        list(opened(fake, name="m").generate(draws(1, 1)))


def test_a_model_that_is_being_loaded_is_waited_for(fake, opened):
    tries = []

    def loading(asked):
        tries.append(asked)
        if len(tries) < 3:
            return asked.error(503, "Loading model")
        return {"data": [{"id": "m", "owned_by": "llamacpp"}]}

    fake.others["/v1/models"] = loading
    assert opened(fake).dialect.owner == "llamacpp"
    assert len(tries) == 3


def test_wrong_addresses(fake, tmp_path):
    def fails(spec, kind, said):
        with pytest.raises(kind, match=said) as error:
            open_engine(f"{spec},timeout=0.5,tries=2,backoff=0.01").close()
        assert "\n" not in str(error.value)

    fails("openai:m:base_url=http://127.0.0.1:1/v1", EngineError, "nothing answers there.*Start the server")
    fails("openai:m:base_url=localhost:8000", UserError, "is no address")
    fails("openai:m:base_url=http://h:99999/v1", UserError, "is no address")
    fails(f"openai:m:base_url={fake.url[:-3]}", UserError, rf"write base_url={fake.url}\.")
    fake.others["/v1/models"] = lambda asked: asked.send("<html>hello</html>")
    fails(f"openai:m:base_url={fake.url}", UserError, "not JSON but '<html>hello</html>'.*ends in /v1")
    fake.others["/v1/models"] = lambda asked: asked.wait_for_hang_up() and None
    fails(f"openai:m:base_url={fake.url}", EngineError, r"no whole answer within 0\.5 s")
    fake.others["/v1/models"] = lambda asked: asked.error(401, "who are you")
    fails(f"openai:m:base_url={fake.url}", UserError, "401: who are you.*key_env=NAME")
    fails("openai:m:base_url=http://h/v1,form=text", UserError, "Unknown form 'text'")
    fails("openai:m:base_url=http://h/v1,server=vlm", UserError, "Did you mean 'vllm'")
    fails("openai:m:base_url=http://h/v1,parallel=0", UserError, "parallel=0 is too low")
    fails("openai:m:base_url=http://h/v1,paralel=0", UserError, "Did you mean 'parallel'")


# --- keys -------------------------------------------------------------------------------------------------

KEY = "sk-verysecret0123456789"


def test_the_key_comes_from_the_environment(fake, opened, monkeypatch):
    list(opened(fake).generate(draws(1, 1)))
    assert KEY not in fake.asked[-1].headers.get("authorization", "")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    list(opened(fake).generate(draws(1, 1)))
    assert fake.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("OTHER_KEY", "other")
    list(opened(fake, "key_env=OTHER_KEY").generate(draws(1, 1)))
    assert fake.asked[-1].headers["authorization"] == "Bearer other"


def test_a_key_is_not_sent_unencrypted_to_another_machine_unasked(monkeypatch):
    from reasoning.engines.openai_settings import key_from

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert key_from("", "http://gpu-box:8000/v1") == ""
    assert key_from("OPENAI_API_KEY", "http://gpu-box:8000/v1") == KEY
    for safe in ("https://host/v1", "http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:5/v1"):
        assert key_from("", safe) == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        key_from("", "https://api.openai.com/v1")


@pytest.mark.parametrize(
    "options",
    [
        f"api_key={KEY}",
        f"key={KEY}",
        f"parallel=x,api_key={KEY}",
        f"key_env={KEY}",
        "key_env=NOT_SET_ANYWHERE",
    ],
)
def test_a_key_in_a_spec_is_refused_and_not_repeated(fake, options):
    with pytest.raises(UserError, match=r"key_env") as error:
        open_engine(f"openai:m:base_url={fake.url},{options}")
    assert KEY not in str(error.value)


def test_a_key_in_an_address_is_refused_and_not_repeated():
    for address in (f"https://user:{KEY}@host/v1", f"https://host/v1?key={KEY}"):
        with pytest.raises(UserError, match="key_env") as error:
            open_engine(f"openai:m:base_url={address}")
        assert KEY not in str(error.value)


def test_a_key_that_a_server_repeats_is_blotted_out(fake, opened, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    engine = opened(fake)
    fake.answer = lambda asked: asked.error(
        401, f"Incorrect API key provided: {asked.headers['authorization']}"
    )
    with (
        Pool.open(tmp_path) as pool,
        Ledger(path=tmp_path) as ledger,
        pytest.raises(UserError, match=r"Bearer \*\*\*") as error,
    ):
        sample(PROBLEMS[:1], engine, pool, ledger, 1, PLAIN)
    seen = error.value
    while seen is not None:
        assert KEY not in str(seen)
        seen = seen.__cause__ or seen.__context__
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()


# --- small parts ------------------------------------------------------------------------------------------


def test_times_as_servers_write_them():
    assert seconds_until("6m0s") == 360
    assert seconds_until("1h2m3.5s") == 3723.5
    assert seconds_until("20ms") == 0.02
    assert seconds_until("12.5") == 12.5
    assert seconds_until(str(time.time() + 50)) == pytest.approx(50, abs=1)
    assert seconds_until("2020-01-01T00:00:00Z") == 0
    for nothing in (None, "", "soon", "1x", "nan", "-"):
        assert seconds_until(nothing) is None
