"""Settings of the vLLM engine: what reaches vLLM's own configuration, and what is refused in one line."""

import importlib.util
import inspect
import json

import pytest
from contract import tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from reasoning.engines import open_engine
from reasoning.engines import vllm_options as module
from reasoning.engines.vllm import VLLMEngine
from reasoning.errors import UserError

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vLLM is not installed (make test-vllm makes an environment)"
)
GIB = 2**30
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(VLLMEngine.open).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}


def arguments(**changes):
    return module.vllm_arguments(DEFAULTS | changes)


@pytest.mark.parametrize("name", module.BOUNDS)
def test_numbers_out_of_bounds_are_refused_by_name(name):
    low, high = module.BOUNDS[name]
    for value in (low, high):
        arguments(**{name: value})
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(UserError, match=f"{name} must lie between"):
            arguments(**{name: value})


def test_two_settings_for_one_thing_are_refused():
    with pytest.raises(UserError, match="give one of them"):
        arguments(memory_gb=1.0, gpu_memory_utilization=0.5)


def test_data_parallel_says_how_it_is_had():
    with pytest.raises(
        UserError, match=r"data_parallel_size=2: vLLM runs one copy of a model in a process.*ray:vllm"
    ):
        arguments(data_parallel_size=2)


def test_what_the_user_leaves_open_is_left_to_vllm():
    assert set(arguments()) == {
        "logprobs_mode", "load_format", "trust_remote_code", "dtype", "max_num_seqs", "tensor_parallel_size",
        "pipeline_parallel_size", "enable_expert_parallel", "enforce_eager", "enable_prefix_caching",
        "kv_cache_dtype", "enable_sleep_mode",
    }  # fmt: skip
    assert arguments()["trust_remote_code"] is False


def test_on_a_cpu_no_prompt_is_read_in_parts():
    assert module.unsplit({"dtype": "auto"}) == {"dtype": "auto", "enable_chunked_prefill": False}
    assert "enable_chunked_prefill" not in arguments()  # on a GPU the choice is vLLM's


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    two = DEFAULTS | {"tensor_parallel_size": 2}
    module.check_devices(two, "cuda", 2)
    module.check_devices(DEFAULTS, "cpu", 1)
    module.check_devices(two | {"executor": "ray"}, "cuda", 1)
    with pytest.raises(UserError, match="= 4 wants as many GPUs; 2 can be seen"):
        module.check_devices(two | {"pipeline_parallel_size": 2}, "cuda", 2)
    with pytest.raises(UserError, match="= 2 wants as many GPUs, and vLLM runs on the CPU"):
        module.check_devices(two, "cpu", 1)
    with pytest.raises(UserError, match="sleep_mode=true needs a GPU"):
        module.check_devices(DEFAULTS | {"sleep_mode": True}, "cpu", 1)
    with pytest.raises(UserError, match="built for a GPU and finds none"):
        module.check_devices(DEFAULTS, "", 0)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    module.check_devices(two, "cpu", 1)


@given(weights=st.integers(0, 64 * GIB), free=st.integers(1, 64 * GIB))
def test_the_cache_is_fitted_into_free_memory_or_refused(weights, free):
    if weights + 3 >= free:  # not a byte in four is left
        with pytest.raises(UserError, match="dtype=bfloat16"):
            module.fit_memory({}, weights, free)
        return
    assert 0 < module.fit_memory({}, weights, free)["kv_cache_memory_bytes"] <= (free - weights) / 4


def test_too_little_memory_says_how_much_is_needed():
    asked = {"kv_cache_memory_bytes": 6 * GIB}
    assert module.fit_memory(asked, 2 * GIB, 8 * GIB) == asked
    with pytest.raises(
        UserError, match=r"weights take 3\.0 GiB and keys and values 6\.0 GiB, and 8\.0 GiB are free"
    ):
        module.fit_memory(asked, 3 * GIB, 8 * GIB)
    share = {"gpu_memory_utilization": 0.5}
    assert module.fit_memory(share, 2 * GIB, 8 * GIB) == share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "1 validation error for ModelConfig\n  Value error, Sleep mode is not supported on current platform. "
            "[type=value_error, input_value=...]\n    For further information visit https://x.dev/v",
            "Sleep mode is not supported on current platform.",
        ),
        (
            "Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: []",
            "it has no ['FooForCausalLM']. --engine transformers:... draws from any causal language model.",
        ),
        (
            "To serve at least one request, (9.0 GiB KV cache is needed. Try increasing `gpu_memory_utilization` or "
            "decreasing `max_model_len`. See https://docs.example/x for more details.",
            "To serve at least one request, (9.0 GiB KV cache is needed. Try increasing gpu_memory_utilization or "
            "decreasing max_model_len.",
        ),
        ("Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE.", "Decrease memory_gb, memory_gb."),
        ("CUDA out of memory. Tried to allocate 2 GiB", "out of memory (the weights alone take 14.0 GiB"),
        ("", "ValueError"),
    ],
)  # fmt: skip
def test_complaints_are_put_in_our_words(text, expected):
    assert module.in_our_words(ValueError(text), 14 * GIB).startswith(expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    tiny_model("qwen3", head_dim=32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.vllm
@needs_vllm
@pytest.mark.filterwarnings("default")
class TestAgainstVLLM:
    @pytest.mark.parametrize(
        ("option", "value", "path", "expected"),
        [
            ("dtype", "bfloat16", "model_config.dtype", "torch.bfloat16"),
            ("max_rows", 7, "scheduler_config.max_num_seqs", "7"),
            ("max_model_len", 99, "model_config.max_model_len", "99"),
            ("max_batched_tokens", 4096, "scheduler_config.max_num_batched_tokens", "4096"),
            ("memory_gb", 0.5, "cache_config.kv_cache_memory_bytes", str(GIB // 2)),
            ("gpu_memory_utilization", 0.3, "cache_config.gpu_memory_utilization", "0.3"),
            ("cpu_offload_gb", 2.0, "offload_config.uva.cpu_offload_gb", "2.0"),
            ("tensor_parallel_size", 2, "parallel_config.tensor_parallel_size", "2"),
            ("pipeline_parallel_size", 2, "parallel_config.pipeline_parallel_size", "2"),
            ("executor", "mp", "parallel_config.distributed_executor_backend", "mp"),
            ("enforce_eager", True, "model_config.enforce_eager", "True"),
            ("prefix_caching", False, "cache_config.enable_prefix_caching", "False"),
            ("quantization", "fp8_per_tensor", "model_config.quantization", "fp8_per_tensor"),
            ("kv_cache_dtype", "bfloat16", "cache_config.cache_dtype", "bfloat16"),
            ("revision", "v1", "model_config.tokenizer_revision", "v1"),
            ("tokenizer", "FOLDER", "model_config.tokenizer", "FOLDER"),
        ],
    )
    def test_a_setting_reaches_vllm(self, folder, option, value, path, expected):
        from vllm import EngineArgs

        value, expected = (str(folder) if text == "FOLDER" else text for text in (value, expected))
        config = EngineArgs(model=str(folder), **arguments(**{option: value})).create_engine_config()
        for name in path.split("."):
            config = getattr(config, name)
        assert str(config) == expected

    def test_log_probabilities_are_those_of_the_sampling_distribution(self, folder):
        from vllm import EngineArgs

        config = EngineArgs(model=str(folder), **arguments()).create_engine_config().model_config
        assert config.logprobs_mode == "processed_logprobs"
        assert config.trust_remote_code is False

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("tensor_parallel_size=2", "wants as many GPUs, and vLLM runs on the CPU"),
            ("sleep_mode=true", "sleep_mode=true needs a GPU"),
            ("quantization=fp9", r"Unknown quantization 'fp9'. Did you mean 'fp8'\?"),
            ("quantization=fp8,dtype=float32", "float32 is not supported for quantization method fp8"),
            ("max_model_len=4096,memory_gb=0.1", r"max_model_len \(4096\) is greater.*Lower max_model_len"),
            ("memory_gb=100000", r"Too little memory: the weights take [\d.]+ [KM]iB.*Lower memory_gb"),
            ("max_rows=0", "max_rows must lie between 1 and"),
            ("parity=often", "parity='often' is not auto, on, off, or a limit"),
            ("lora=nowhere", r"nowhere is not a LoRA adapter: it has no adapter_config\.json"),
            ("tensor_parallel=2", "Did you mean 'tensor_parallel_size'"),
            ("memory_gb=0.0001", "GiB KV cache is needed"),
        ],
    )
    def test_bad_settings_are_one_line(self, folder, monkeypatch, options, message):
        monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
        with pytest.raises(UserError, match=message) as caught:
            open_engine(
                f"vllm:{folder}:enforce_eager=true,{options}" if "enforce" not in options else options
            )
        assert "\n" not in str(caught.value)

    def test_an_architecture_that_vllm_lacks(self, folder, tmp_path):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BloomForSomething"]}))
        with pytest.raises(UserError, match=r"it has no \['BloomForSomething'\]. --engine transformers"):
            open_engine(f"vllm:{tmp_path}:memory_gb=0.1")

    def test_a_tokenizer_of_another_model(self, folder, tmp_path):
        words = {f"x{i}": i for i in range(500)} | {"</s>": 500}
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="x0")), eos_token="</s>"
        ).save_pretrained(tmp_path)
        with pytest.raises(UserError, match="405 of 501 token ids are not among the model's 96"):
            open_engine(f"vllm:{folder}:memory_gb=0.1,tokenizer={tmp_path}")
