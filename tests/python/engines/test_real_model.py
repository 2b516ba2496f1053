"""A real model through capture and back, and engines that Weft refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file

import engines
import tiny_models
import vllm_rules
from fake_receiver import fill
from weft.vllm import engine as weft_engine
from weft.vllm import target
from weft.vllm.errors import WeftError


def test_smollm2(smollm2):
    """The real model: poisoned, then filled from its own file through the
    captured placement, it answers as before."""
    config = json.loads((smollm2 / "config.json").read_text())
    checkpoint = load_file(smollm2 / "model.safetensors")
    llm = engines.start(smollm2)
    prompts = [[504, 3575, 282, 4649, 314]]
    before = engines.answers(llm, prompts, tokens=4)
    state = engines.bits_of(engines.model_of(llm))
    made = target(engines.model_of(llm), engines.worker_of(llm).vllm_config)
    print(f"captured {len(made.placement.stored)} stored tensors in "
          f"{made.captured.seconds:.3f} s")
    vllm_rules.assert_placed(
        made.placement, config,
        {name: tuple(t.shape) for name, t in checkpoint.items()})
    for name, (_, address, _, bits) in engines.bits_of(
            engines.model_of(llm)).items():
        assert address == state[name][1]
        assert torch.equal(bits, state[name][3]), name
    for tensor in made.tensors():
        tensor.fill_(float("nan"))
    fill(made.placement, made.tensors(), checkpoint)
    engines.core_of(llm).reset_prefix_cache()
    assert engines.answers(llm, prompts, tokens=4) == before
    engines.stop(llm)


def test_settings_that_do_not_go_together():
    from types import SimpleNamespace as Bag

    def config(eplb=False, sleep=False, load_format="auto", gib=0, group=0):
        return Bag(parallel_config=Bag(enable_eplb=eplb),
                   model_config=Bag(enable_sleep_mode=sleep),
                   load_config=Bag(load_format=load_format),
                   offload_config=Bag(uva=Bag(cpu_offload_gb=gib),
                                      prefetch=Bag(offload_group_size=group)))

    refusal = weft_engine.refusal_of
    assert refusal(config()) is None
    for word, settings in [("enable_eplb", {"eplb": True}),
                           ("enable_sleep_mode", {"sleep": True}),
                           ("ipc_cache", {"load_format": "ipc_cache"}),
                           ("cpu_offload_gb 4", {"gib": 4}),
                           ("offload_group_size 2", {"group": 2})]:
        assert word in refusal(config(**settings))


def test_packed_weights_are_refused(tmp_path):
    """An engine with another backend packs its weights, and stays that way."""
    config = tiny_models.config_of("qwen2", tied=True, layers=1)
    folder = tiny_models.write(tmp_path, config,
                               tiny_models.random_tensors(config, 3))
    llm = engines.start(folder, weight_transfer_config=None)
    assert engines.worker_of(llm).weight_transfer_engine is None
    with pytest.raises(WeftError, match="4 weights were packed away"):
        target(engines.model_of(llm), engines.worker_of(llm).vllm_config)
    engines.stop(llm)
