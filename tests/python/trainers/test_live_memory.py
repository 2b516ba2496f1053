"""A source shows the trainer's own memory, tells when that has moved, and
refuses what it cannot describe."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import (DTensor, Partial, Shard,  # noqa: E402
                                      distribute_tensor)

import tiny_models  # noqa: E402
import weft.torch  # noqa: E402
from placement_reader import Rank, assemble, assert_same  # noqa: E402
from rank_processes import run_ranks  # noqa: E402


def rank_of(source):
    return Rank(source.placement, source.tensors())


# ---- live memory ------------------------------------------------------------


def training_rank():
    """The published memory before and after a real step, and what the module
    says that it holds afterwards."""
    mesh = init_device_mesh("cpu", (2,))
    model = tiny_models.build("llama-tied", torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)
    source = weft.torch.fsdp2(model)
    before = [t.clone() for t in source.tensors()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loss = model(input_ids=torch.arange(8).reshape(1, 8)).logits.square().mean()
    # Gathered parameters are registered now; the shards are still the memory.
    source.check()
    gathered = weft.torch.fsdp2(model)
    assert gathered.placement == source.placement
    assert [t.data_ptr() for t in gathered.tensors()] == [
        t.data_ptr() for t in source.tensors()]
    loss.backward()
    optimizer.step()
    source.check()
    assert not any(t.requires_grad for t in source.tensors())
    # Everything but empty shards has changed.
    for old, new in zip(before, source.tensors(), strict=True):
        assert old.numel() == 0 or not torch.equal(old, new)
    full = {name: p.full_tensor().detach().clone()
            for name, p in model.named_parameters()}
    return rank_of(source), full


def test_optimiser_step_shows_in_the_source(tmp_path):
    results = run_ranks(training_rank, 2, tmp_path)
    assert_same(assemble([rank for rank, _ in results]), results[0][1])


def moved_rank():
    mesh = init_device_mesh("cpu", (2,))
    model = fully_shard(tiny_models.build("qwen2"), mesh=mesh)
    source = weft.torch.fsdp2(model)
    source.check()
    model.to(torch.float32)
    with pytest.raises(weft.torch.MemoryMoved) as caught:
        source.check()
    return str(caught.value), len(source.placement.stored)


def test_conversion_of_a_sharded_module_is_seen(tmp_path):
    for message, count in run_ranks(moved_rank, 2, tmp_path):
        assert message.startswith(f"{count} of {count} published tensors moved")
        assert ('"model.norm.weight": pointer was 0x' in message and
                "dtype was torch.bfloat16 and is torch.float32" in message)


def test_one_moved_tensor_is_named():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    source = weft.torch.fsdp2(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    source.check()
    model[1].bias.data = torch.zeros(2)
    model[0].weight = torch.nn.Parameter(torch.zeros(5, 3))
    model[0].register_parameter("bias", None)
    with pytest.raises(weft.torch.MemoryMoved) as caught:
        source.check()
    message = str(caught.value)
    assert message.startswith("3 of 4 published tensors moved")
    assert '"0.bias" is gone' in message
    assert "shape was (4, 3) and is (5, 3)" in message
    assert '"1.weight"' not in message


def test_device_is_compared():
    model = torch.nn.Linear(3, 4)
    source = weft.torch.fsdp2(model)
    model.to("meta")
    with pytest.raises(weft.torch.MemoryMoved,
                       match="device was cpu and is meta"):
        source.check()


# ---- names ------------------------------------------------------------------


def test_wrappers_leave_no_trace_in_names(tmp_path):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        checkpoint_wrapper)
    model = tiny_models.build("mixtral")
    layers = model.model.layers
    for i, layer in enumerate(layers):
        layers[i] = checkpoint_wrapper(torch.compile(layer))
    compiled = torch.compile(model)
    source = weft.torch.fsdp2(compiled)
    assert "_orig_mod." in source.placement.stored[0].name
    assert_same(assemble([rank_of(source)]),
                tiny_models.checkpoint("mixtral", tmp_path))


def compiled_replicas_rank():
    """How a compiled DistributedDataParallel is published, also around a
    compiled module."""
    from torch.nn.parallel import DistributedDataParallel
    model = DistributedDataParallel(torch.compile(tiny_models.build("mixtral")))
    return rank_of(weft.torch.fsdp2(torch.compile(model)))


def test_compiled_replicas_leave_no_trace_in_names(tmp_path):
    ranks = run_ranks(compiled_replicas_rank, 2, tmp_path)
    assert_same(assemble(ranks), tiny_models.checkpoint("mixtral", tmp_path))


def test_layers_with_adapters_are_refused():
    """As PEFT puts them around a linear layer, whose own weight is not what the
    model multiplies with."""
    model = tiny_models.build("qwen2")
    attention = model.model.layers[1].self_attn
    layer = torch.nn.Module()
    layer.base_layer = attention.q_proj
    layer.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(12, 2)})
    layer.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, 16)})
    attention.q_proj = layer
    with pytest.raises(weft.torch.UnsupportedTensors) as caught:
        weft.torch.fsdp2(model)
    assert str(caught.value).startswith(
        '6 tensors belong to layers with adapters, among them "model.layers.1.'
        'self_attn.q_proj.base_layer.weight"; merge them (merge_and_unload')


def test_tied_weights_appear_once_under_the_first_name():
    source = weft.torch.fsdp2(tiny_models.build("llama-tied"))
    names = [t.name for t in source.placement.tensors]
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_aliases_of_one_memory_appear_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(3, 4))
    model[1].weight = torch.nn.Parameter(model[0].weight.data)
    names = [t.name for t in weft.torch.fsdp2(model).placement.tensors]
    assert names == ["0.weight", "0.bias", "1.bias"]


def test_only_persistent_buffers_are_published():
    model = torch.nn.Module()
    model.register_buffer("kept", torch.ones(2))
    model.register_buffer("derived", torch.ones(2), persistent=False)
    names = [t.name for t in weft.torch.fsdp2(model).placement.tensors]
    assert names == ["kept"]


def test_dtypes_may_differ_between_tensors():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4).to(torch.bfloat16),
                                torch.nn.Linear(3, 4).to(torch.float16),
                                torch.nn.Linear(3, 4))
    source = weft.torch.fsdp2(model)
    assert [s.dtype for s in source.placement.stored] == [
        "BF16", "BF16", "F16", "F16", "F32", "F32"]


# ---- what is refused --------------------------------------------------------


class Packed(torch.Tensor):
    """As quantised weights come: a subclass that hides its real memory."""


def test_all_faults_come_at_once():
    model = torch.nn.Module()
    for name, value in (
            ("meta", torch.empty(2, 3, device="meta")),
            ("turned", torch.zeros(2, 3).t()),
            ("packed", torch.zeros(2).as_subclass(Packed)),
            ("complex", torch.zeros(2, dtype=torch.complex64)),
            ("good", torch.zeros(2))):
        model.register_buffer(name, value)
    with pytest.raises(weft.torch.UnsupportedTensors) as caught:
        weft.torch.fsdp2(model)
    message = str(caught.value)
    assert message.startswith("4 faults: ")
    assert '"meta" is on the meta device' in message
    assert '"turned" of shape (3, 2) has strides (1, 3)' in message
    assert '"packed" is a Packed' in message
    assert '"complex" has dtype torch.complex64' in message
    assert '"good"' not in message


def partial_rank():
    mesh = init_device_mesh("cpu", (2,))
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(
        DTensor.from_local(torch.ones(2), mesh, [Partial()]))
    model.turned = torch.nn.Parameter(DTensor.from_local(
        torch.zeros(2, 3).t(), mesh, [Shard(0)], shape=(6, 2), stride=(2, 1)))
    model.wrong = torch.nn.Parameter(DTensor.from_local(
        torch.zeros(2, 3), mesh, [Shard(0)], shape=(9, 3), stride=(3, 1)))
    with pytest.raises(weft.torch.UnsupportedTensors) as caught:
        weft.torch.fsdp2(model)
    return str(caught.value)


def test_partial_and_ill_shaped_dtensors_are_refused(tmp_path):
    for message in run_ranks(partial_rank, 2, tmp_path):
        assert message.startswith("3 faults: ")
        assert '"weight": placement Partial(sum) holds a part' in (
            message)
        assert '"turned" of shape (3, 2) has strides' in message
        assert '"wrong": placements' in message
        assert "do not explain the local shape (2, 3)" in message


def test_stacked_experts_need_a_known_family():
    model = torch.nn.Module()
    model.experts = torch.nn.Module()
    model.experts.gate_up_proj = torch.nn.Parameter(torch.zeros(2, 4, 3))
    layer = torch.nn.Module()
    layer.mlp = model
    with pytest.raises(weft.torch.UnsupportedTensors,
                       match='"mlp.experts.gate_up_proj": .*qwen3_moe'):
        weft.torch.fsdp2(layer)
    source = weft.torch.fsdp2(layer, {"model_type": "qwen3_moe"})
    assert [(t.name, t.shape) for t in source.placement.tensors] == [
        (f"mlp.experts.{e}.{part}_proj.weight", (2, 3))
        for e in range(2) for part in ("gate", "up")]
    model.experts.gate_up_proj = torch.nn.Parameter(torch.zeros(2, 5, 3))
    with pytest.raises(weft.torch.UnsupportedTensors, match="gate and up"):
        weft.torch.fsdp2(layer, {"model_type": "qwen3_moe"})


def test_family_that_renames_in_an_unknown_way_is_refused():
    with pytest.raises(weft.torch.UnsupportedTensors,
                       match='model_type "granitemoe"'):
        weft.torch.fsdp2(torch.nn.Linear(2, 2), {"model_type": "granitemoe"})


# ---- weft.torch.tensors -----------------------------------------------------


def test_mapping_of_whole_tensors_and_blocks():
    left, right = torch.arange(6.0).reshape(3, 2), torch.arange(3.0)[:, None]
    ranks = [
        weft.torch.tensors({"w": (left, ((0, 3), (0, 2)), (3, 3)),
                            "norm": torch.ones(2)}, "mine", 0, 2),
        weft.torch.tensors({"w": (right, ((0, 3), (2, 3)), (3, 3))},
                           "mine", 1, 2)]
    assert_same(assemble([rank_of(s) for s in ranks]),
                {"w": torch.cat([left, right], 1), "norm": torch.ones(2)})
    assert ranks[0].tensors()[0].data_ptr() == left.data_ptr()


def mapping_rank():
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(15.0).reshape(5, 3)
    rank = torch.distributed.get_rank()
    return rank_of(weft.torch.tensors(
        {"w": distribute_tensor(whole, mesh, [Shard(0)])}, "mine", rank, 2))


def test_mapping_of_dtensors(tmp_path):
    assert_same(assemble(run_ranks(mapping_rank, 2, tmp_path)),
                {"w": torch.arange(15.0).reshape(5, 3)})


def test_mapping_is_checked():
    mapping = {"w": torch.zeros(2)}
    source = weft.torch.tensors(mapping)
    assert source.placement.layout_spec == "tensors"
    mapping["w"] = torch.zeros(2)
    with pytest.raises(weft.torch.MemoryMoved, match='"w": pointer was'):
        source.check()
    with pytest.raises(weft.torch.UnsupportedTensors) as caught:
        weft.torch.tensors({
            "outside": (torch.zeros(2), ((3, 5),), (4,)),
            "flat": (torch.zeros(2), ((0, 2), (0, 1)), (2, 1)),
            "turned": torch.zeros(2, 3).t()}, rank=2, num_ranks=2)
    message = str(caught.value)
    assert message.startswith("4 faults: rank 2 is not one of 2 ranks; ")
    assert '"outside": box ((3, 5),) of global shape (4,)' in message
