"""The embedded engine: the contract on many architectures, batch invariance, and opening folders."""

import random
import shutil
from typing import Any

import pytest
import torch
from contract import SAMPLINGS, EngineContract, forward_logprobs, problems, tiny_model, tiny_tokenizer

from reasoning.engines import llama, open_engine
from reasoning.engines.tokens import weights_digest
from reasoning.engines.transformers import TransformersEngine, check_memory
from reasoning.errors import EngineError, UserError
from reasoning.records import Draw, Problem, Sampling

FORWARDS = {
    "qwen3": "LlamaForward",
    "qwen2": "LlamaForward",
    "llama": "LlamaForward",
    "mistral": "CachedForward",
    "gemma3_text": "CachedForward",
    "gpt2": "CachedForward",
    "bloom": "CachedForward",
}


def engine_for(kind, **options):
    return TransformersEngine(tiny_model(kind), tiny_tokenizer(), name=kind, version="1", **options)


@pytest.fixture(autouse=True, scope="module")
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FORWARDS)
def engine(request):
    engine = engine_for(request.param)
    assert type(engine._forward).__name__ == FORWARDS[request.param]
    return engine


class TestContract(EngineContract):
    @pytest.fixture
    def module(self, engine):
        return engine.module


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2", "mistral"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_does_not_depend_on_its_company_in_any_bit(kind, threads):
    torch.set_num_threads(threads)
    engine = engine_for(kind, max_rows=33)
    samplings = [SAMPLINGS["plain"], SAMPLINGS["top_k_top_p"], Sampling(temperature=0.7, max_new_tokens=80)]
    pool = [Draw(p, samplings[i % 3], tuple(range(1 + i % 9))) for i, p in enumerate(problems(9, seed=3))]
    expected = {c.key: c for c in engine.generate(pool)}
    rng = random.Random(0)
    for _ in range(3):
        some = [
            Draw(d.problem, d.sampling, tuple(rng.sample(d.indices, rng.randint(1, len(d.indices)))))
            for d in rng.sample(pool, rng.randint(1, len(pool)))
        ]
        engine.max_rows = rng.choice([1, 5, 16, 33, 512])
        for chain in engine.generate(some):
            assert chain.token_ids == expected[chain.key].token_ids
            assert chain.logprobs == expected[chain.key].logprobs


def test_steps_have_the_same_bits_with_any_number_of_threads(monkeypatch):
    """So that the engine may choose it by the clock. The prompts are read with the same number in each run."""
    torch.set_num_threads(2)
    engine = engine_for("qwen3")
    assert engine._forward.any_threads
    draws = [Draw(p, SAMPLINGS["plain"], tuple(range(24))) for p in problems(5, seed=3)]
    runs = []
    for count in (1, 2, 3, 5):
        step = engine._forward.step

        def with_threads(*arguments, count=count, step=step):
            before = torch.get_num_threads()
            torch.set_num_threads(count)
            try:
                return step(*arguments)
            finally:
                torch.set_num_threads(before)

        with monkeypatch.context() as patched:
            patched.setattr(engine._forward, "step", with_threads)
            runs.append({c.key: (c.token_ids, c.logprobs) for c in engine.generate(draws)})
    assert len(runs[0]) == 120
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_an_architecture_without_keys_and_values_is_read_whole():
    with pytest.warns(UserWarning, match="MambaForCausalLM .* is slow"):
        engine = engine_for("mamba")
    assert type(engine._forward).__name__ == "WholeForward"
    draws = [Draw(p, Sampling(max_new_tokens=6), (0, 1, 2)) for p in problems(3)]
    chains = list(engine.generate(draws))
    assert len(chains) == 9
    for chain in chains:
        expected = forward_logprobs(engine.module, chain)
        torch.testing.assert_close(torch.tensor(chain.logprobs), expected, atol=1e-4, rtol=0)


def test_large_models_are_read_in_place(monkeypatch):
    """Above FUSED_BYTES no weight is copied; the numbers are the same."""
    monkeypatch.setattr(llama.LlamaForward, "fused_bytes", 0)
    engine = engine_for("qwen3")
    down = engine.module.model.layers[0].mlp.down_proj.weight
    assert engine._forward.layers[0].down[0].data_ptr() == down.data_ptr()
    assert len(engine._forward.layers[0].qkv) == 3
    for chain in engine.generate([Draw(problems(1)[0], SAMPLINGS["plain"], (0, 1))]):
        expected = forward_logprobs(engine.module, chain)
        torch.testing.assert_close(torch.tensor(chain.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_half_precision_agrees_with_the_module(kind):
    module = tiny_model(kind).to(torch.bfloat16)
    engine = TransformersEngine(module, tiny_tokenizer(), name=kind, version="1")
    assert type(engine._forward).__name__ == FORWARDS[kind]
    for chain in engine.generate([Draw(p, SAMPLINGS["plain"], (0, 1)) for p in problems(3)]):
        expected = forward_logprobs(module, chain)
        torch.testing.assert_close(torch.tensor(chain.logprobs), expected, atol=0.15, rtol=0.05)


def test_chains_stream_as_they_finish_and_rows_join_as_room_frees_up():
    engine = engine_for("qwen3", max_rows=16)
    short, long = problems(2)
    draws = [
        Draw(long, Sampling(max_new_tokens=60), (0,)),
        Draw(short, Sampling(max_new_tokens=2), tuple(range(40))),
    ]
    chains = list(engine.generate(draws))
    assert len(chains) == 41
    assert chains[-1].problem_id == long.id  # 40 short ones passed through the other 15 rows meanwhile
    stream: Any = engine.generate(draws)
    assert next(stream).problem_id == short.id
    stream.close()


def test_giving_way_finishes_what_is_under_way_and_begins_no_more():
    engine = engine_for("qwen3", max_rows=8)
    draws = [Draw(p, Sampling(max_new_tokens=40), tuple(range(10))) for p in problems(6)]
    alone = {c.key: c for c in engine.generate(draws)}
    stream: Any = engine.generate(draws)
    some = [next(stream), next(stream)]
    some.append(stream.send(True))
    some += stream
    assert 8 <= len(some) < 30, "those that had a row, and no more than joined before the second one ended"
    assert all(alone[c.key] == c for c in some)
    assert not engine.unfinished(), "nothing was cancelled"
    assert len(list(engine.generate(draws))) == 60, "the next call is told nothing"


def test_memory_bounds_the_rows():
    engine = engine_for("qwen3", memory_bytes=10 * 50 * 2 * 2 * 2 * 16 * 4)  # 10 rows of 50 positions
    problem = Problem.make(" ".join(["w5"] * 30), None)
    batch_rows = []
    original = engine._forward.step
    engine._forward.step = lambda store, tokens, lengths: (
        batch_rows.append(len(tokens)) or original(store, tokens, lengths)
    )
    assert len(list(engine.generate([Draw(problem, Sampling(max_new_tokens=20), tuple(range(33)))]))) == 33
    assert max(batch_rows) == 10


def test_too_little_memory_says_how_much_and_what_lowers_it():
    engine = engine_for("qwen3", memory_bytes=4000)
    draw = Draw(problems(1)[0], Sampling(max_new_tokens=50), (0,))
    with pytest.raises(
        UserError, match=r"50 new tokens takes [\d.]+ KiB .* Lower --max-new-tokens, raise memory_gb"
    ):
        list(engine.generate([draw]))
    with pytest.raises(UserError, match=r"weights take 8\.0 GiB, and 3\.0 GiB are free.* dtype=bfloat16"):
        check_memory(8 * 2**30, 0, 3 * 2**30, "cpu")
    check_memory(8 * 2**30, 2, 10 * 2**30, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_users_error(folder):
    with pytest.raises(UserError, match="no CUDA device is available; use device=cpu"):
        open_engine(f"transformers:{folder}:device=cuda")


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(UserError, match="do not fit"):
        TransformersEngine(
            tiny_model(vocab_size=20, pad_token_id=1, eos_token_id=2), tiny_tokenizer(), name="m", version="1"
        )


def test_a_folder_without_a_tokenizer_says_so(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare")
    for path in bare.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match=r"bare has no tokenizer .*save_pretrained"):
        open_engine(f"transformers:{bare}")


def test_an_empty_stop_string_is_refused():
    draw = Draw(problems(1)[0], Sampling(stop=("",)), (0, 1))
    with pytest.raises(UserError, match="empty stop string"):
        list(engine_for("qwen3").generate([draw]))


@pytest.mark.parametrize("setting", [{"top_p": 0.9}, {"top_k": 20}])
def test_truncation_at_temperature_0_is_refused(setting):
    draw = Draw(problems(1)[0], Sampling(temperature=0, **setting), (0,))
    engine = engine_for("qwen3")
    for work in (engine.worst_case, lambda draw: list(engine.generate([draw]))):
        with pytest.raises(UserError, match=f"{next(iter(setting))}=.* would do nothing: leave it out"):
            work(draw)


def test_refresh_takes_over_trained_weights():
    engine = engine_for("qwen3")
    draws = [Draw(p, SAMPLINGS["plain"], (0, 1)) for p in problems(2)]
    before = {c.index: c.logprobs for c in engine.generate(draws)}
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    engine.refresh()
    engine.set_version("2")
    chains = list(engine.generate(draws))
    assert {c.model for c in chains} == {"qwen3@2"}
    for chain in chains:
        assert chain.logprobs != before[chain.index]
        expected = forward_logprobs(engine.module, chain)
        torch.testing.assert_close(torch.tensor(chain.logprobs), expected, atol=1e-4, rtol=0)


def test_the_modules_mode_and_gradients_are_left_alone():
    module = tiny_model("gpt2").train()  # gpt2 has dropout
    engine = TransformersEngine(module, tiny_tokenizer(), name="gpt2", version="1")
    draw = Draw(problems(1)[0], SAMPLINGS["plain"], (0, 1))
    one = [c.logprobs for c in engine.generate([draw])]
    for chain in engine.generate([draw]):
        assert module.training
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert chain.logprobs in one
    module(torch.tensor([[1, 2]])).logits.sum().backward()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "grpo" / "model"
    tiny_model("qwen3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_folder_is_named_after_its_run_and_versioned_by_its_weights(folder, tmp_path):
    engine: Any = open_engine(f"transformers:{folder}:max_rows=7")
    assert engine.model == f"grpo@{weights_digest(folder)}"
    assert engine.max_rows == 7
    engine = open_engine(str(folder), max_rows=9)
    assert engine.max_rows == 9
    engine = open_engine(f"transformers:{folder}:max_rows=7", max_rows=9)
    assert engine.max_rows == 7
    other = tmp_path / "base"
    tiny_model("qwen3", seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    assert open_engine(str(other)).model.startswith("base@")
    assert weights_digest(other) != weights_digest(folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transformers", "does not say which model"),
        ("transformer:x/y", "Did you mean 'transformers'"),
        ("transformers:no/such/folder", "No model folder"),
        ("transformers:{empty}", r"no config\.json"),
        ("transformers:{bare}", r"no \*\.safetensors"),
        ("transformers:{folder}:max_row=3", "Did you mean 'max_rows'"),
        ("transformers:{folder}:max_rows=many", "not a int"),
        ("transformers:{folder}:max_rows=0", "1 or above"),
        ("transformers:{folder}:dtype=int8", "int8"),
        ("transformers:{folder}:device=tpu", "not one of auto, cpu, cuda"),
        ("transformers:{folder}:memory_gb=100000", "keys and values 97.7 TiB .* are free. Lower memory_gb"),
        ("transformers:{folder}:memory_gb=-1", "0 .* or above"),
        ("transformers:{folder}:chat=yes", "no chat template"),
        ("transformers:{folder}:chat=maybe", "not one of"),
        ("transformers:{broken}", "Cannot load"),
    ],
)
def test_what_cannot_be_opened_says_why_in_one_line(folder, tmp_path, spec, message):
    for name in ("empty", "bare", "broken"):
        (tmp_path / name).mkdir()
    for name in ("bare", "broken"):
        (tmp_path / name / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 64)
    paths = {name: tmp_path / name for name in ("empty", "bare", "broken")} | {"folder": folder}
    with pytest.raises(UserError, match=message) as error:
        open_engine(spec.format(**paths))
    assert "\n" not in str(error.value)


def test_engines_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, size=1):\n"
        "        self.model, self.shape, self.size = 'mine@1', None, size\n"
        "    def generate(self, draws): return iter(())\n"
        "    def worst_case(self, draw): return None\n"
        "    def close(self): pass\n"
        "thing = 3\n"
        "def nothing(): return 5\n"
    )
    engine: Any = open_engine(f"{tmp_path}/mine.py:Mine", size=4)
    assert engine.size == 4
    with pytest.raises(UserError, match="is not an engine"):
        open_engine(f"{tmp_path}/mine.py:nothing")
    with pytest.raises(UserError, match="neither an engine nor a function"):
        open_engine(f"{tmp_path}/mine.py:thing")


def test_chat_templates_are_used_where_there_is_one():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}w1 {{ m.content }} w2{% endfor %}"
    engine = TransformersEngine(tiny_model(), tokenizer, name="m", version="1")
    assert engine.encode("w7 w8") == (1, 7, 8, 2)
    plain = TransformersEngine(tiny_model(), tokenizer, name="m", version="1", chat="no")
    assert plain.encode("w7 w8") == (7, 8)


def test_the_context_bounds_a_chain():
    engine = engine_for("qwen3")  # reads 128 tokens
    (chain,) = engine.generate(
        [Draw(Problem.make("w1 " * 120, None), Sampling(max_new_tokens=99, temperature=9), (0,))]
    )
    assert len(chain.token_ids) <= 8
    worst = engine.worst_case(Draw(Problem.make("w1 " * 120, None), Sampling(max_new_tokens=99), (0,)))
    assert worst.output_tokens == 8
    for text, message in [("w1 " * 128, "128 tokens"), ("", "no tokens")]:
        with pytest.raises(UserError, match=message):
            list(engine.generate([Draw(Problem.make(text, None), Sampling(), (0,))]))


def test_damaged_weights_are_an_engine_error():
    engine = engine_for("qwen3")
    with torch.no_grad():
        engine.module.lm_head.weight.fill_(float("nan"))
    engine.refresh()
    with pytest.raises(EngineError, match="not finite"):
        list(engine.generate([Draw(problems(1)[0], Sampling(), (0,))]))


def test_chains_that_end_in_a_step_that_fails_are_paid_for():
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), name="tiny", version="0", chat="no")
    short, long = (
        Draw(Problem.make(text, None), Sampling(max_new_tokens=limit, stop=()), (0, 1, 2))
        for text, limit in (("w1 w2", 2), ("w3", 9))
    )
    step, calls = engine._forward.step, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:  # the step after the short chains' last token
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(*arguments)

    engine._forward.step = failing
    told = []
    with pytest.raises(EngineError, match=r"tiny@0: out of memory on cpu while sampling.* Lower max_rows"):
        told.extend(engine.generate([short, long]))
    begun = told + engine.unfinished()
    assert len(begun) == 6
    assert sum(chain.cost.prompt_tokens for chain in begun) == 3
