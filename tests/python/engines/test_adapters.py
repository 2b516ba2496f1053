"""An engine that serves adapters (LoRA): Weft moves the base under them. An
adapter stays what it is, the base is never merged with one, and nothing cached
under either outlives a refit."""

import json

import safetensors.torch
import torch
from vllm.lora.request import LoRARequest

import engines
import tiny_models
from fake_receiver import FakeReceiver
from weft.vllm import engine as weft_engine

RANK = 8
LONG = [[(7 * i + 3) % 1000 for i in range(200)]]  # more than a cache block
WITH_ADAPTERS = {"enable_lora": True, "max_lora_rank": RANK}


def write_adapter(folder, config):
    """Of three kinds of layers: in a fused one, behind it, and alone."""
    generator = torch.Generator().manual_seed(3)
    shapes = tiny_models.shapes_of(config)
    tensors = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if not module.endswith(("q_proj", "gate_proj", "down_proj")):
            continue
        for part, size in [("A", (RANK, shape[1])), ("B", (shape[0], RANK))]:
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = (
                torch.randn(size, generator=generator) * 0.3).bfloat16()
    folder.mkdir()
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "bias": "none",
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "gate_proj", "down_proj"]}))
    return LoRARequest("adapter", 1, str(folder))


def test_the_base_changes_under_an_adapter(tmp_path, monkeypatch):
    config = tiny_models.config_of("qwen2", tied=False)
    adapter = write_adapter(tmp_path / "adapter", config)
    versions = {f"run:0:{step}": tiny_models.random_tensors(config, step)
                for step in (1, 2)}

    def ask(llm):
        return [engines.answers(llm, prompts, lora_request=request)
                for prompts in (engines.PROMPTS, LONG)
                for request in (None, adapter)]

    def started(version):
        folder = tmp_path / version.replace(":", "_")
        if not folder.exists():
            tiny_models.write(folder, config, versions[version])
        return engines.start(folder, **WITH_ADAPTERS)

    fresh = started("run:0:2")
    wanted = {"run:0:2": ask(fresh)}
    engines.stop(fresh)
    del fresh
    monkeypatch.setattr(weft_engine, "receiver_factory", FakeReceiver)
    monkeypatch.setattr(FakeReceiver, "versions", versions)
    llm = started("run:0:1")
    wanted["run:0:1"] = ask(llm)
    # Both the base and the adapter make a difference.
    plain, with_adapter, _, _ = wanted["run:0:1"]
    assert plain != with_adapter
    assert all(one != two for one, two in zip(*wanted.values(), strict=True))

    llm.init_weight_transfer_engine(
        {"init_info": {"catalog": "nowhere:1", "model": "tiny"}})
    for version in ("run:0:2", "run:0:1", "run:0:2"):
        worker = engines.worker_of(llm)
        for tensor in worker.weight_transfer_engine._target.tensors():
            tensor.fill_(float("nan"))
        llm.start_weight_update()
        llm.update_weights({"update_info": {"version": version}})
        llm.finish_weight_update(weight_version=version)
        assert ask(llm) == wanted[version]
    engines.stop(llm)
