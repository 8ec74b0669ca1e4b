"""What draws roll-outs: which engines may, under torchrun too, and when vLLM sleeps."""

import pytest
import torch

from reasoning.errors import UserError
from reasoning.train import generators
from reasoning.train.generators import InVLLM, check_engine

TOLD = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("option", generators.ONE_DEVICE)
def test_under_torchrun_a_vllm_is_of_one_process(monkeypatch, option):
    check_engine(f"vllm:{option}=2")
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    check_engine("vllm:max_rows=8")
    with pytest.raises(UserError, match=rf"has a vLLM of its own on its own device\. Leave {option} out"):
        check_engine(f"vllm:{option}=2")


class Recorder:
    """An engine of vLLM that notes what it is told."""

    version = "first"
    model = "m@first"

    def __init__(self, sleep_mode):
        self.sleep_mode = sleep_mode
        self.told = []

    def expect(self, parity):
        self.told.append(("expect", parity))

    def sleep(self, level):
        self.told.append(("sleep", level))

    def wake(self):
        self.told.append("wake")

    def load_weights(self, weights, *, version, plain):
        self.version = version
        self.told.append(("load", version, [name for name, _ in weights], plain))


@pytest.mark.parametrize("sleeps", [True, False])
def test_vllm_sleeps_while_the_learner_works_and_is_given_all_weights_anew(monkeypatch, sleeps):
    opened = []

    def open_engine(spec, **options):
        opened.append((spec, options))
        return Recorder(sleeps)

    monkeypatch.setattr(generators, "open_engine", open_engine)
    drawing = InVLLM("vllm:sleep_mode=true,parity=0.5", "folder", "grpo", plain="scores", beside=True)
    assert opened == [("vllm:folder:sleep_mode=true,parity=off", {"executor": "external_launcher"})]
    weights = [("w", torch.zeros(1))]
    drawing.load(weights, "one")
    drawing.load(weights, "one")  # an evaluation before the first step: it has them
    drawing.rest()
    drawing.load(weights, "two")
    slept = [("sleep", 2), "wake"] if sleeps else []
    assert drawing.engine.told == [
        ("expect", "0.5"),
        ("load", "one", ["w"], "scores"),
        *slept,
        ("load", "two", ["w"], "scores"),
    ]
