"""Each rule of capture on a small module whose loader does one thing. What is
captured is applied by the oracle and compared with what the loader itself
writes, bit for bit."""

import pytest
import torch
from torch import nn

from fake_receiver import fill
from weft.layout import LogicalTensor
from weft.vllm.capture import capture
from weft.vllm.errors import CaptureError, CoverageError
from weft.vllm.live import NAMES


class Model(nn.Module):
    """`load(model, {name: tensor})` is its weight loader."""

    def __init__(self, load, **shapes):
        super().__init__()
        for name, value in shapes.items():
            if not isinstance(value, torch.Tensor):
                value = torch.randn(value)
            self.register_parameter(name, nn.Parameter(value, False))
        self.load = load

    def load_weights(self, weights):
        self.load(self, dict(weights))


def check(load, sources, **shapes):
    """Captures, proves that nothing changed, and compares with the loader."""
    model = Model(load, **shapes)
    before = {n: (p, p.data_ptr(), p.clone())
              for n, p in model.named_parameters()}
    captured = capture(model, [
        LogicalTensor(n, NAMES[t.dtype], tuple(t.shape))
        for n, t in sources.items()])
    for name, parameter in model.named_parameters():
        same, address, value = before[name]
        assert parameter is same and parameter.data_ptr() == address
        assert torch.equal(parameter, value), name
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
        model.load_weights({n: t.clone() for n, t in sources.items()}.items())
        wanted = {n: p.clone() for n, p in model.named_parameters()}
        for tensor in captured.tensors:
            tensor.fill_(float("nan"))
    fill(captured.placement, captured.tensors, sources)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
    return captured


def refuse(load, sources, *, error=CaptureError, **shapes):
    model = Model(load, **shapes)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(error) as caught:
        capture(model, [LogicalTensor(n, NAMES[t.dtype], tuple(t.shape))
                        for n, t in sources.items()])
    for name, value in before.items():
        assert torch.equal(dict(model.named_parameters())[name], value)
    return str(caught.value)


def w(*shape, dtype=torch.float32):
    return torch.arange(1, 1 + torch.Size(shape).numel()).view(shape).to(dtype)


def test_views():
    check(lambda m, t: (m.a.data[:4].copy_(t["x"]),
                        m.a.data[4:].copy_(t["y"].t())),
          {"x": w(4, 6), "y": w(6, 3)}, a=(7, 6))
    check(lambda m, t: m.a.data.copy_(
        t["x"].view(2, 4, 5).transpose(0, 1).reshape(8, 5)),
        {"x": w(8, 5)}, a=(8, 5))
    check(lambda m, t: m.a.data.view(-1).copy_(t["x"].view(-1)),
          {"x": w(3, 4)}, a=(2, 6))
    check(lambda m, t: m.a.data.copy_(t["x"].expand(3, 4)), {"x": w(1, 4)},
          a=(3, 4))
    check(lambda m, t: m.a.data.copy_(t["x"]), {"x": w(4)}, a=(3, 4))


def test_experts_are_stacked_and_transposed():
    def load(m, t):
        for e in range(3):
            m.w13.data[e].narrow(0, 0, 4).copy_(t[f"{e}.gate"])
            m.w13.data[e].narrow(0, 4, 4).copy_(t[f"{e}.up"])
            m.w2.data[e].copy_(t[f"{e}.down"].t())

    sources = {}
    for e in range(3):
        sources |= {f"{e}.gate": w(4, 5) + e, f"{e}.up": w(4, 5) - e,
                    f"{e}.down": w(5, 4) * e}
    check(load, sources, w13=(3, 8, 5), w2=(3, 4, 5))


def test_interleaved_rows():
    def load(m, t):
        m.a.data[:4].copy_(t["x"][::2])
        m.a.data[4:].copy_(t["x"][1::2])

    check(load, {"x": w(8, 3)}, a=(8, 3))


def test_new_storages_are_composed():
    check(lambda m, t: m.a.data.copy_(torch.cat([t["x"], t["y"]], 1)),
          {"x": w(3, 2), "y": w(3, 4)}, a=(3, 6))
    check(lambda m, t: m.a.data.copy_(torch.stack([t["x"], t["y"]])),
          {"x": w(3, 2), "y": w(3, 2) + 50}, a=(2, 3, 2))
    check(lambda m, t: m.a.data.copy_(
        torch.nn.functional.pad(t["x"], (0, 2, 0, 1))), {"x": w(3, 2)},
        a=(4, 4))
    check(lambda m, t: m.a.data.copy_(
        t["x"].t().contiguous().view(2, 6).flip(0)), {"x": w(4, 3)}, a=(2, 6))
    check(lambda m, t: m.a.data.copy_(torch.cat([t["x"], t["y"]]).t()),
          {"x": w(3, 2), "y": w(1, 2)}, a=(2, 4))
    check(lambda m, t: m.a.data.copy_(t["x"][torch.tensor([2, 0, 1])]),
          {"x": w(3, 4)}, a=(3, 4))


def test_a_buffer_of_the_loader_is_composed():
    def load(m, t):
        fused = torch.zeros(6, 4)
        fused[:3] = t["x"]
        fused[3:5] = t["y"]
        m.a.data.copy_(fused)

    check(load, {"x": w(3, 4), "y": w(2, 4)}, a=(6, 4))


def test_constants():
    def load(m, t):
        m.a.data[:3].copy_(t["x"])
        m.a.data[3:].fill_(0)
        m.b.data.zero_()
        m.b.data[1:2].copy_(t["y"])

    captured = check(load, {"x": w(3, 4), "y": w(1, 2)}, a=(5, 4), b=(4, 2))
    a, b = captured.placement.stored
    assert a.zero_fill == [((3, 5), (0, 4))]
    assert sorted(b.zero_fill) == [((0, 1), (0, 2)), ((2, 4), (0, 2))]
    said = refuse(lambda m, t: m.a.data.fill_(1), {"x": w(2)}, a=(2,))
    assert '"a"' in said and "fills it with 1" in said


def test_a_source_set_to_zero_is_a_constant():
    def load(m, t):
        t["x"].zero_()
        m.a.data.copy_(t["x"])

    captured = check(load, {"x": w(3, 4)}, a=(3, 4))
    assert captured.placement.stored[0].fragments == []
    assert captured.unused == ["x"]


def test_a_scalar_read_as_a_number():
    check(lambda m, t: m.a.data.fill_(t["scale"].item()), {"scale": w(1)},
          a=(1,))
    said = refuse(lambda m, t: m.a.data.copy_(
        t["x"] if t["scale"].item() > 2 else t["x"].t()),
        {"x": w(2, 2), "scale": w(1)}, a=(2, 2))
    assert '"scale"' in said and "decides by the values" in said


def test_dtypes():
    captured = check(lambda m, t: m.a.data.copy_(t["x"]),
                     {"x": w(3, 4, dtype=torch.bfloat16)}, a=(3, 4))
    assert captured.placement.tensors[0].dtype == "BF16"
    assert captured.placement.stored[0].dtype == "F32"
    check(lambda m, t: m.a.data.copy_(t["x"].to(torch.float32)),
          {"x": w(3, 4, dtype=torch.bfloat16)},
          a=w(3, 4, dtype=torch.bfloat16))
    said = refuse(lambda m, t: m.a.data.copy_(t["x"].to(torch.bfloat16)),
                  {"x": w(3, 4)}, a=(3, 4))
    assert '"x" from torch.float32 through torch.bfloat16' in said


@pytest.mark.parametrize("load", [
    lambda m, t: m.a.data.copy_(-torch.exp(t["x"])),
    lambda m, t: m.a.data.copy_(t["x"] + 1),
    lambda m, t: (m.a.data.copy_(t["x"]), m.a.data.mul_(2)),
    lambda m, t: (m.a.data.copy_(t["x"]), m.a.data.copy_(-m.a.data)),
    lambda m, t: (t["x"].mul_(2), m.a.data.copy_(t["x"])),
    lambda m, t: m.a.data.copy_(torch.full((3, 4), 2.0)),
])
def test_values_that_the_loader_computes_are_refused(load):
    said = refuse(load, {"x": w(3, 4)}, a=(3, 4))
    assert '"a"' in said, said


def test_live_zeros_are_no_constant():
    """They are zero now; after a refit they need not be."""
    def load(m, t):
        fused = torch.zeros(3, 4)
        fused[:2] = t["x"]
        fused[2:] = m.b.data
        m.a.data.copy_(fused)

    said = refuse(load, {"x": w(2, 4)}, a=(3, 4), b=torch.zeros(1, 4))
    assert '"a": the loader computes its value' in said


def test_holes_and_double_writes_are_all_listed():
    def load(m, t):
        m.a.data[:2].copy_(t["x"])
        m.a.data[1:3].copy_(t["y"])

    said = refuse(load, {"x": w(2, 4), "y": w(2, 4)}, a=(4, 4), b=(3,),
                  error=CoverageError)
    assert 'nothing fills [3,4)x[0,4) of "a"' in said
    assert '"x", "y" all fill [1,2)x[0,4) of "a"' in said
    assert 'nothing fills [0,3) of "b"' in said


def test_a_tensor_larger_than_the_model_is_named():
    said = refuse(lambda m, t: m.a.data.copy_(t["x"].narrow(0, 0, 3)),
                  {"x": w(5, 4)}, a=(3, 4), error=CoverageError)
    assert '[3,5)x[0,4) of logical tensor "x" (5, 4) goes nowhere' in said


def test_the_same_bytes_twice_are_one_fragment():
    captured = check(lambda m, t: (m.a.data.copy_(t["x"]),
                                   m.a.data.copy_(t["x"])),
                     {"x": w(3, 4)}, a=(3, 4))
    assert len(captured.placement.stored[0].fragments) == 1


def test_tied_parameters_are_one_stored_tensor():
    model = Model(lambda m, t: m.a.data.copy_(t["x"]), a=(3, 4))
    model.b = model.a
    model.register_buffer("part", model.a.data[1:])
    captured = capture(model, [LogicalTensor("x", "F32", (3, 4))])
    assert [s.name for s in captured.placement.stored] == ["a"]
    assert captured.tensors[0].data_ptr() == model.a.data_ptr()


def test_a_transposed_parameter_is_stored_as_its_memory_lies():
    captured = check(lambda m, t: m.a.data.copy_(t["x"]), {"x": w(3, 4)},
                     a=torch.zeros(4, 3).t())
    assert captured.placement.stored[0].shape == (4, 3)
    assert captured.placement.stored[0].fragments[0].modes == (
        ((3, 1),), ((4, 3),))


def test_a_failing_loader_names_the_tensor():
    def load(m, t):
        raise AssertionError("sizes differ")

    said = refuse(load, {"x": w(3, 4)}, a=(3, 4))
    assert '"x"' in said and "AssertionError: sizes differ" in said


def test_replaced_memory_is_noticed():
    def load(m, t):
        m.a.data = torch.empty(3, 4)

    model = Model(load, a=(3, 4))
    with pytest.raises(CaptureError, match='replaces live tensors ".a"'):
        capture(model, [LogicalTensor("x", "F32", (3, 4))])
