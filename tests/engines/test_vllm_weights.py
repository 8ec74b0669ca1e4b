"""Weights and adapters of a running vLLM: taken over whole, checked against a plain forward, or refused."""

import importlib.util
import json
import math
import shutil

import pytest
import torch
from contract import forward_logprobs, problems, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from reasoning.engines import open_engine
from reasoning.engines.memory import weights_bytes
from reasoning.engines.vllm_weights import Adapter, Layout, read_tensors
from reasoning.errors import EngineError, MissingExtra, UserError
from reasoning.records import Draw, Sampling

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vLLM is not installed (make test-vllm makes an environment)"
)
WITH_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SETTINGS = "dtype=float32,max_model_len=128,max_rows=32,memory_gb=0.25,enforce_eager=true"
TARGETS = ["q_proj", "v_proj", "down_proj", "gate_proj"]


def model(seed=0, **changes):
    return tiny_model("qwen3", seed=seed, **({"head_dim": 32} | changes))


def adapted(seed, adapter_seed, rank=4, **changes):
    """A random adapter on a tiny model: the peft module."""
    peft = pytest.importorskip("peft")
    base = model(seed, **changes)
    torch.manual_seed(adapter_seed)
    config = peft.LoraConfig(r=rank, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False)
    return peft.get_peft_model(base, config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The base model, other weights for it, two adapters, one of a larger rank, and one for wider heads."""
    root = tmp_path_factory.mktemp("weights")
    for name, seed in (("base", 0), ("other", 1)):
        model(seed).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    adapted(0, 5).save_pretrained(root / "adapter")
    adapted(0, 6).save_pretrained(root / "adapter2")
    adapted(0, 7, rank=40).save_pretrained(root / "large")
    adapted(0, 8, head_dim=16).save_pretrained(root / "narrow")
    return root


@pytest.fixture
def layout(folders):
    return Layout.of(AutoConfig.from_pretrained(folders / "base"), folders / "base")


pytestmark = WITH_PEFT


class TestLayout:
    def test_it_is_the_checkpoints(self, folders, layout):
        assert dict(layout.shapes) == {n: tuple(t.shape) for n, t in read_tensors(folders / "base")}
        assert layout.shapes == layout.stored
        assert layout.tied == ("lm_head.weight", "model.embed_tokens.weight")

    def test_a_tied_head_is_always_given_by_name(self, layout):
        module = model(3)
        named, state = (
            list(layout.complete(module.named_parameters())),
            list(layout.complete(module.state_dict().items())),
        )
        assert (
            {name for name, _ in named} == {name for name, _ in state} == {*layout.shapes, "lm_head.weight"}
        )
        assert dict(named)["lm_head.weight"].data_ptr() == module.lm_head.weight.data_ptr()
        assert not any(tensor.requires_grad for _, tensor in named)

    def test_an_iterator_will_do(self, layout):
        assert len(list(layout.complete(iter(model().named_parameters())))) == len(layout.shapes) + 1

    def test_names_as_in_the_checkpoint_will_do(self, layout):
        bare = {name.removeprefix("model."): shape for name, shape in layout.stored.items()}
        other = Layout(layout.shapes, bare, layout.tied)
        given = other.complete((n.removeprefix("model."), p) for n, p in model().named_parameters())
        assert {"lm_head.weight", "embed_tokens.weight"} <= {name for name, _ in given}

    def test_what_does_not_fit_is_refused_by_name(self, layout):
        state = model().state_dict()
        first = min(layout.shapes)
        for changed, message in (
            ({}, "no weights"),
            ({k: v for k, v in state.items() if k != first}, rf"1 of \d+ tensors are missing.*{first}"),
            (state | {"model.extra": state[first]}, "are not of this model, e.g. 'model.extra'"),
            (state | {first: state[first][:-1]}, f"{first}' has shape"),
        ):  # fmt: skip
            with pytest.raises(UserError, match=message):
                layout.complete(changed.items())

    def test_the_size_of_a_checkpoint(self, folders):
        count = sum(parameter.numel() for parameter in model().parameters())
        assert (
            weights_bytes(folders / "base", "auto") == weights_bytes(folders / "base", "float32") == 4 * count
        )
        assert weights_bytes(folders / "base", "bfloat16") == 2 * count

    def test_a_damaged_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
            read_tensors(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
            read_tensors(tmp_path)


class TestAdapter:
    def test_rank_and_digest(self, folders, layout, tmp_path):
        one, two = (Adapter.open(folders / name, layout.shapes) for name in ("adapter", "adapter2"))
        assert one.rank == 4
        assert one.slot_rank((1, 8, 16)) == 8
        assert one.digest != two.digest
        shutil.copytree(folders / "adapter", tmp_path / "a")
        assert Adapter.open(tmp_path / "a", layout.shapes).digest == one.digest
        path = tmp_path / "a" / "adapter_config.json"
        path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 17'))
        assert Adapter.open(tmp_path / "a", layout.shapes).digest != one.digest
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": {"q_proj": 9}}))
        assert Adapter.open(tmp_path / "a", layout.shapes).rank == 9
        with pytest.raises(UserError, match="has rank 4; vLLM takes at most 2"):
            one.slot_rank((1, 2))

    def test_an_adapter_for_other_widths_is_refused(self, folders, layout):
        """vLLM 0.32 loads this one without a word."""
        with pytest.raises(UserError, match=r"does not fit the model: .*q_proj.* wants 128"):
            Adapter.open(folders / "narrow", layout.shapes)

    def test_an_adapter_for_other_layers_or_of_another_kind_is_refused(self, folders, layout, tmp_path):
        shutil.copytree(folders / "adapter", tmp_path / "a")
        path = tmp_path / "a" / "adapter_model.safetensors"
        tensors = load_file(path)
        name = next(iter(tensors))
        save_file(tensors | {name.replace("layers.0", "layers.7"): tensors[name].clone()}, path)
        with pytest.raises(
            UserError, match=r"it adapts 'model\.layers\.7\..*', which the model does not have"
        ):
            Adapter.open(tmp_path / "a", layout.shapes)
        save_file(tensors | {"base_model.model.lm_head.weight": tensors[name].clone()}, path)
        with pytest.raises(UserError, match="no LoRA factor"):
            Adapter.open(tmp_path / "a", layout.shapes)

    @pytest.mark.parametrize("text", ["{", "[]", '{"r": "many"}', "{}"])
    def test_a_configuration_that_is_none(self, folders, layout, tmp_path, text):
        shutil.copytree(folders / "adapter", tmp_path / "a")
        (tmp_path / "a" / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match="not a LoRA configuration"):
            Adapter.open(tmp_path / "a", layout.shapes)


@pytest.fixture(scope="module")
def engine(folders):
    engine = open_engine(f"vllm:{folders / 'base'}:{SETTINGS},lora={folders / 'adapter'}")
    yield engine
    engine.close()


@pytest.mark.vllm
@needs_vllm
@pytest.mark.filterwarnings("default")
class TestAgainstVLLM:
    """All on one engine, which starts slowly: a test that cares puts the first weights back before it begins."""

    def chains(self, engine):
        return list(engine.generate([Draw(p, Sampling(max_new_tokens=16), (0, 1)) for p in problems(3)]))

    def assert_draws_from(self, engine, module):
        chains = self.chains(engine)
        assert {chain.model for chain in chains} == {engine.model}
        for chain in chains:
            torch.testing.assert_close(
                torch.tensor(chain.logprobs), forward_logprobs(module, chain), atol=1e-4, rtol=0
            )

    def put_back(self, engine, folders):
        engine.load_weights(folders / "base")
        engine.load_adapter(folders / "adapter")

    def test_an_adapter_draws_as_peft_does(self, engine, folders):
        self.put_back(engine, folders)
        self.assert_draws_from(engine, adapted(0, 5))
        name, _, digest = engine.model.partition("+")
        assert digest == Adapter.open(folders / "adapter", engine._layout.shapes).digest
        assert name == f"base@{engine.version}"
        assert engine.parity.mean < 1e-5
        assert engine.shape.parameters == sum(
            p.numel() for n, p in model().named_parameters() if "norm" not in n
        )

    def test_another_adapter_in_its_place(self, engine, folders):
        self.put_back(engine, folders)
        before = engine.model
        assert engine.load_adapter(folders / "adapter2").holds
        self.assert_draws_from(engine, adapted(0, 6))
        assert engine.model != before
        with pytest.raises(UserError, match="has rank 40; the engine made room for 8"):
            engine.load_adapter(folders / "large")
        with pytest.raises(UserError, match="does not fit the model"):
            engine.load_adapter(folders / "narrow")
        self.assert_draws_from(engine, adapted(0, 6))

    def test_new_base_weights_keep_the_adapter(self, engine, folders):
        self.put_back(engine, folders)
        found = engine.load_weights(folders / "other")
        assert found is engine.parity
        assert found.mean < 1e-5
        self.assert_draws_from(engine, adapted(1, 5))

    def test_weights_as_tensors_again_and_again(self, engine, folders):
        self.put_back(engine, folders)
        seen = {engine.model}
        for step in (2, 3, 4):
            engine.load_weights(model(step).named_parameters(), version=f"step{step}")
            self.assert_draws_from(engine, adapted(step, 5))
            assert f"@step{step}+" in engine.model
            seen.add(engine.model)
        assert len(seen) == 4

    def test_the_same_prompt_is_not_read_from_the_old_cache(self, engine, folders):
        self.put_back(engine, folders)
        self.chains(engine)
        engine.load_weights(model(6).state_dict().items(), version="six")
        assert {chain.cost.cached_tokens for chain in self.chains(engine)[:1]} <= {0, 16, 32}
        self.assert_draws_from(engine, adapted(6, 5))

    def test_a_version_must_be_new(self, engine):
        for version in ("", engine.version):
            with pytest.raises(UserError, match="give a version other than"):
                engine.load_weights(model(2).named_parameters(), version=version)

    def test_weights_that_do_not_fit_leave_the_old_ones(self, engine, folders):
        self.put_back(engine, folders)
        some = dict(list(model(2).named_parameters())[:5])
        with pytest.raises(UserError, match="tensors are missing"):
            engine.load_weights(some.items(), version="part")
        self.assert_draws_from(engine, adapted(0, 5))

    def test_a_failed_check_stops_the_drawing_until_weights_are_right(self, engine, folders):
        self.put_back(engine, folders)
        with pytest.raises(
            EngineError, match=r"does not draw from its model.*worst.*parity=off draws all the same"
        ):
            engine.load_weights(model(2).named_parameters(), version="two", plain=adapted(3, 5))
        with pytest.raises(UserError, match="cannot draw: its weights failed the parity check"):
            self.chains(engine)
        engine.load_weights(model(3).named_parameters(), version="three", plain=adapted(3, 5))
        self.assert_draws_from(engine, adapted(3, 5))

    def test_a_failure_midway_stops_the_drawing(self, engine, folders, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("connection lost")

        monkeypatch.setattr(engine.llm.llm_engine, "collective_rpc", fail)
        with pytest.raises(EngineError, match="could not take over the weights: connection lost"):
            engine.load_weights(folders / "other")
        monkeypatch.undo()
        with pytest.raises(UserError, match="failed midway: load_weights again"):
            self.chains(engine)
        self.put_back(engine, folders)
        self.assert_draws_from(engine, adapted(0, 5))

    def test_without_peft_the_extra_is_named(self, engine, folders, monkeypatch):
        self.put_back(engine, folders)
        monkeypatch.setitem(__import__("sys").modules, "peft", None)
        with pytest.raises(MissingExtra, match=r"checking an adapter \(parity=off goes without\).*\[lora\]"):
            engine.load_adapter(folders / "adapter2")

    def test_turned_off_no_check_is_made(self, engine, folders, monkeypatch):
        monkeypatch.setattr(engine, "_parity", ("off", math.inf))
        assert (
            engine.load_weights(model(2).named_parameters(), version="unchecked", plain=adapted(3, 5)) is None
        )
        assert engine.parity is None
