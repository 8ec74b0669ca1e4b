"""The vLLM engine: the contract against the real thing (make test-vllm), and what holds without it."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from contract import (
    END,
    SAMPLINGS,
    VOCAB,
    EngineContract,
    forward_logprobs,
    problems,
    tiny_model,
    tiny_tokenizer,
)

from reasoning.engines import open_engine
from reasoning.errors import EngineError, MissingExtra, UserError
from reasoning.records import Cost, Draw, Problem, Sampling

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vLLM is not installed (make test-vllm makes an environment)"
)
# So few tokens a step that the prompts of a test do not fit in one.
SETTINGS = (
    "dtype=float32,max_model_len=128,max_batched_tokens=128,max_rows=32,memory_gb=0.25,enforce_eager=true"
)


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_without_vllm_the_extra_is_named():
    with pytest.raises(MissingExtra, match=r"pip install 'reasoning-toolkit\[vllm\]'"):
        open_engine("vllm:some/model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    tiny_model("qwen3", head_dim=32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    engine = open_engine(f"vllm:{folder}:{SETTINGS}")
    yield engine
    engine.close()
    engine.close()  # safe twice
    with pytest.raises(UserError, match="closed"):
        list(engine.generate([]))


def draw_of(count, new_tokens=24, seed=0, **sampling):
    (problem,) = problems(1, seed)
    return Draw(problem, Sampling(max_new_tokens=new_tokens, **sampling), tuple(range(count)))


@pytest.mark.vllm
@needs_vllm
@pytest.mark.filterwarnings("default")  # vLLM's own warnings are not ours to mend
class TestContract(EngineContract):
    shares_prompts_exactly = False

    @pytest.fixture
    def module(self):
        return tiny_model("qwen3", head_dim=32)

    def test_parity_was_measured_after_loading(self, engine):
        assert engine.parity.holds
        assert engine.parity.mean < 1e-5
        assert engine.parity.tokens > 50
        assert engine.parity.cost.output_tokens == engine.parity.tokens

    def test_closing_a_generator_early_cancels_the_rest(self, engine):
        chains = engine.generate([Draw(p, SAMPLINGS["plain"], tuple(range(4))) for p in problems(4)])
        next(iter(chains))
        assert engine.llm.llm_engine.has_unfinished_requests()
        chains.close()
        assert not engine.llm.llm_engine.has_unfinished_requests()
        assert len(engine.unfinished()) > 0
        assert engine.unfinished() == []
        assert len(list(engine.generate([draw_of(3)]))) == 3

    def test_what_was_cut_off_is_told_to_the_token(self, engine):
        """The same draws, whole and cut off after the first chain."""
        draws = [Draw(p, Sampling(max_new_tokens=60), tuple(range(8))) for p in problems(2, seed=5)]
        whole = {chain.key: chain for chain in engine.generate(draws)}
        chains = engine.generate(draws)
        got = [next(chains)]
        chains.close()
        cut = engine.unfinished()
        assert {chain.finish_reason for chain in cut} == {"cancelled"}
        assert {chain.key for chain in got} | {chain.key for chain in cut} == whole.keys()
        for chain in cut:
            assert 0 < chain.cost.output_tokens <= whole[chain.key].cost.output_tokens
            prompt = chain.cost.prompt_tokens + chain.cost.cached_tokens
            assert prompt == len(whole[chain.key].prompt_token_ids)
        # All had been stepped together, so none is ahead of the chain that came first by more than a token.
        first = got[0].cost.output_tokens
        assert {c.cost.output_tokens for c in cut} <= {first - 1, first, first + 1}

    def test_generators_may_be_read_by_turns(self, engine):
        one, two = draw_of(6), draw_of(6, seed=1)
        alone = {c.key: c.token_ids for draw in (one, two) for c in engine.generate([draw])}
        streams, together = [engine.generate([one]), engine.generate([two])], {}
        while streams:
            for stream in list(streams):
                chain = next(stream, None)
                if chain is None:
                    streams.remove(stream)
                else:
                    together[chain.key] = chain.token_ids
        assert together == alone

    def test_short_chains_arrive_before_long_ones(self, engine):
        long, short = draw_of(1, 100, temperature=1.0), draw_of(1, 2, seed=1)
        order = [chain.problem_id for chain in engine.generate([long, short])]
        assert order == [short.problem.id, long.problem.id]

    def test_a_chain_ends_at_the_context(self, engine):
        problem = Problem.make(" ".join(["w5"] * 120), None)
        for chain in engine.generate([Draw(problem, Sampling(max_new_tokens=500), (0, 1, 2, 3))]):
            assert len(chain.prompt_token_ids) == 120
            full = len(chain.token_ids) == 8
            assert chain.finish_reason == ("stop" if END in chain.token_ids else "length")
            assert full or chain.token_ids[-1] == END
        assert engine.worst_case(Draw(problem, Sampling(max_new_tokens=500))).output_tokens == 8
        with pytest.raises(UserError, match=r"has 128 tokens; .* reads at most 128"):
            list(engine.generate([Draw(Problem.make(" ".join(["w5"] * 128), None), Sampling())]))

    def test_top_k_past_the_vocabulary_and_top_k_one(self, engine, module):
        (chain,) = engine.generate([draw_of(1, top_k=VOCAB + 50)])
        torch.testing.assert_close(
            torch.tensor(chain.logprobs),
            forward_logprobs(module, replace(chain, sampling=Sampling())),
            atol=1e-4,
            rtol=0,
        )
        (one,) = engine.generate([draw_of(1, top_k=1)])
        assert max(map(abs, one.logprobs)) < 1e-6

    def test_ids_that_the_model_does_not_have_are_refused(self, engine):
        draw = replace(draw_of(1), prefix=(VOCAB + 7,), parent="x")
        with pytest.raises(UserError, match="tokenizer and model do not fit"):
            list(engine.generate([draw]))

    def test_a_failure_inside_of_vllm_is_an_engine_error(self, engine, monkeypatch):
        def fail():
            raise RuntimeError("broken pipe")

        monkeypatch.setattr(engine.llm.llm_engine, "step", fail)
        with pytest.raises(EngineError, match="vLLM failed while sampling: RuntimeError: broken pipe"):
            list(engine.generate([draw_of(2)]))
        monkeypatch.undo()
        assert engine.unfinished() == []  # it failed before anything was computed
        assert not engine.llm.llm_engine.has_unfinished_requests()

    def test_a_chain_that_vllm_aborts_is_not_taken_for_a_cut_one(self, engine, monkeypatch):
        step = engine.llm.llm_engine.step

        def aborting():
            outputs = step()
            for output in outputs:
                output.outputs[0].finish_reason = "abort"
            return outputs

        monkeypatch.setattr(engine.llm.llm_engine, "step", aborting)
        with pytest.raises(EngineError, match=r"gave up a chain of problem .*: abort"):
            list(engine.generate([draw_of(2)]))

    def test_sleeping_is_refused_where_there_is_nothing_to_free(self, engine):
        with pytest.raises(UserError, match=r"cannot sleep: that needs a GPU and the option sleep_mode=true"):
            engine.sleep()
        with pytest.raises(UserError, match="level must be 1"):
            engine.sleep(3)
        with pytest.raises(UserError, match="does not sleep"):
            engine.wake()

    def test_sleep_and_wake_reach_vllm(self, engine, monkeypatch):
        """As on a GPU, with vLLM's own two calls recorded (its CPU worker ignores them)."""
        calls = []
        core = engine.llm.llm_engine
        monkeypatch.setattr(core.model_config, "enable_sleep_mode", True)
        monkeypatch.setattr(core, "sleep", lambda level: calls.append(level))
        monkeypatch.setattr(core, "wake_up", lambda: calls.append("wake"))
        engine.sleep()
        with pytest.raises(UserError, match=r"sleeps \(level 1\): call wake\(\) first"):
            list(engine.generate([draw_of(1)]))
        with pytest.raises(UserError, match="the engine sleeps"):
            engine.load_weights([("a", torch.zeros(1))], version="b")
        engine.wake()
        assert len(list(engine.generate([draw_of(1)]))) == 1
        engine.sleep(level=2)
        engine.wake()
        with pytest.raises(UserError, match="dropped its weights: load_weights first"):
            list(engine.generate([draw_of(1)]))
        model = engine.model
        engine.load_weights(tiny_model("qwen3", head_dim=32).state_dict().items(), version="again")
        assert len(list(engine.generate([draw_of(1)]))) == 1
        assert calls == [1, "wake", 2, "wake"]
        assert engine.model != model

    def test_nothing_is_changed_while_chains_are_drawn(self, engine):
        chains = engine.generate([draw_of(3, 60)])
        next(chains)
        for change in (lambda: engine.load_weights([], version="x"), engine.sleep):
            with pytest.raises(UserError, match="still being drawn"):
                change()
        chains.close()

    def test_the_cost_of_cached_prompts_is_kept_apart(self, engine):
        problem = Problem.make(" ".join(f"w{i % 90}" for i in range(100)), None)  # whole blocks of the cache
        draw = Draw(problem, Sampling(max_new_tokens=2), tuple(range(8)))
        total = sum((chain.cost for chain in engine.generate([draw])), Cost())
        assert total.prompt_tokens + total.cached_tokens == 800

    def test_a_folder_that_is_no_model(self, tmp_path):
        with pytest.raises(UserError, match=r"no config\.json"):
            open_engine(f"vllm:{tmp_path}")
