"""The engine 'openai' against vLLM's real server, started here on a free loopback port (make test-vllm)."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest
from contract import SAMPLINGS, EngineContract, problems, tiny_model, tiny_tokenizer

from reasoning.budget import Budget, Ledger
from reasoning.engines import open_engine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Problem, Sampling
from reasoning.sampling import sample
from verifiers import Attempt, open_verifier

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed (make test-vllm makes an environment)",
    ),
]
TEMPLATE = (
    "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}"
    "{% if add_generation_prompt %}w3{% if loud is defined %} w4{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    tiny_model("qwen3", head_dim=32).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    settings = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "128", "--max-num-seqs", "32"]
    command += ["--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details"]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | settings, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, number)
                server.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def connect(url):
    engines = []

    def connect(options="", name="tiny"):
        engines.append(open_engine(f"openai:{name}:base_url={url}" + f",{options}" * bool(options)))
        return engines[-1]

    yield connect
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def engine(connect, folder):
    return connect(f"form=completion,logprobs=keep,tokenizer={folder},shape={folder}")


class TestContract(EngineContract):
    shares_prompts_exactly = False

    @pytest.fixture
    def module(self):
        return tiny_model("qwen3", head_dim=32)


def test_chats_come_back_as_token_ids_with_logprobs_and_usage(connect):
    engine = connect()
    assert engine.dialect.owner == "vllm"
    draw = Draw(Problem.make("w5 w6", None), Sampling(max_new_tokens=12), (0, 1, 2, 3))
    chains = list(engine.generate([draw]))
    assert len(chains) == 4
    for chain in chains:
        assert chain.prompt_token_ids == (1, 5, 6, 2, 3) == engine.encode("w5 w6")
        assert len(chain.token_ids) == len(chain.logprobs) == chain.cost.output_tokens > 0
        assert chain.cost.prompt_tokens + chain.cost.cached_tokens == 5
    assert engine.worst_case(draw) == Cost(prompt_tokens=20, output_tokens=48)
    assert len({chain.token_ids for chain in chains}) > 1


def test_the_sum_of_worst_cases_is_reached_by_chains_that_fill_the_context(connect):
    engine = connect("form=completion")
    long = Draw(Problem.make("w7 " * 120, None), Sampling(temperature=2, max_new_tokens=64), tuple(range(16)))
    worst = engine.worst_case(long)
    assert worst == Cost(prompt_tokens=16 * 120, output_tokens=16 * 8)
    chains = list(engine.generate([long]))
    assert max(len(c.token_ids) for c in chains) == 8
    assert sum(c.cost.output_tokens for c in chains) <= worst.output_tokens
    with pytest.raises(UserError, match=r"128 tokens; tiny at .* reads at most 128"):
        list(engine.generate([Draw(Problem.make("w7 " * 128, None), Sampling(max_new_tokens=4))]))


def test_several_chains_a_request(connect):
    draw = Draw(Problem.make("w5 w6", None), Sampling(max_new_tokens=12), tuple(range(6)))
    chains = list(connect("chains_per_request=4").generate([draw]))
    assert sorted(c.index for c in chains) == list(range(6))
    assert len({c.token_ids for c in chains}) > 3
    assert sum(c.cost.prompt_tokens + c.cost.cached_tokens for c in chains) == 30
    assert all(c.cost.output_tokens == len(c.token_ids) for c in chains)


def test_a_conversation_with_its_options_and_a_begun_answer(connect):
    engine = connect()
    asked = Problem.make("w5", None)
    loud = replace(asked, metadata={"chat_options": {"loud": True}})
    begun = replace(
        asked,
        metadata={"messages": [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w8 w9"}]},
    )
    shown = [
        next(iter(engine.generate([Draw(p, SAMPLINGS["plain"])]))).prompt_token_ids
        for p in (asked, loud, begun)
    ]
    assert shown[:2] == [(1, 5, 2, 3), (1, 5, 2, 3, 4)]
    assert shown[2] == (1, 5, 2, 1, 8, 9)  # up to where the answer goes on


def test_a_budget_is_kept_to_the_token(connect, tmp_path):
    engine = connect("parallel=16")
    with Pool.open(tmp_path) as pool, Ledger(Budget(tokens=900), tmp_path) as ledger:
        report = sample(problems(5), engine, pool, ledger, 8, Sampling(max_new_tokens=16))
        assert 0 < report.drawn < 40
        assert report.unaffordable == 40 - report.drawn
        stored = pool.chains(engine.model)
        assert ledger.spent.cost.tokens == sum(c.cost.tokens for c in stored) <= 900


def test_closing_cancels_at_the_server(connect, url):
    engine = connect("parallel=8")
    draws = [Draw(p, Sampling(max_new_tokens=80), tuple(range(8))) for p in problems(3)]
    chains = engine.generate(draws)
    next(chains)
    chains.close()
    assert {c.finish_reason for c in engine.unfinished()} == {"cancelled"}
    deadline = time.monotonic() + 20
    while running(url) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(url: str) -> float:
    """Requests that the server says it is working on."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    found = [
        line for line in lines if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting{"))
    ]
    assert found
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_what_this_server_refuses_is_one_line(connect):
    with pytest.raises(UserError, match=r"Unknown model at http.*'tinny'\. Did you mean 'tiny'"):
        connect(name="tinny")
    with pytest.raises(UserError) as error:
        list(connect().generate([Draw(Problem.make("w5", None), Sampling(top_p=1e-9, temperature=1e9))]))
    assert "\n" not in str(error.value)


def test_a_judge_behind_this_server_is_charged(url):
    judge = open_verifier(f"judge:{url}:model=tiny,max_tokens=8,template_tokens=64")
    (verdict,) = judge.verify([Attempt(prompt="w5", response="w6 w7")])
    assert (verdict.score, verdict.status) == (None, "protocol")  # a random model keeps no form
    assert verdict.scored_tokens > 8
    assert verdict.scored_tokens <= judge.worst_case([Attempt(prompt="w5", response="w6 w7")])[0]
    assert json.dumps(verdict.reason).startswith('"the judge ended with')
