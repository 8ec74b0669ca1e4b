"""The vLLM engine: the contract against the real thing (make test-vllm), and what holds without it."""

import importlib.util

import pytest
from contract import SAMPLINGS, EngineContract, problems, tiny_model, tiny_tokenizer

from reasoning.engines import open_engine
from reasoning.errors import MissingExtra, UserError
from reasoning.records import Draw

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vLLM is not installed (make test-vllm makes an environment)"
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
    engine = open_engine(f"vllm:{folder}:dtype=float32,max_model_len=128,max_rows=32,memory_gb=0.25")
    yield engine
    engine.close()
    engine.close()  # safe twice


@pytest.mark.vllm
@needs_vllm
@pytest.mark.filterwarnings("default")  # vLLM's own warnings are not ours to mend
class TestContract(EngineContract):
    shares_prompts_exactly = False

    @pytest.fixture
    def module(self):
        return tiny_model("qwen3", head_dim=32)

    def test_closing_a_generator_early_cancels_the_rest(self, engine):
        chains = engine.generate([Draw(p, SAMPLINGS["plain"], tuple(range(4))) for p in problems(4)])
        next(iter(chains))
        chains.close()
        assert not engine.llm.llm_engine.has_unfinished_requests()

    def test_a_folder_that_is_no_model(self, tmp_path):
        with pytest.raises(UserError, match=r"no config\.json"):
            open_engine(f"vllm:{tmp_path}")
