"""weft plan over a fleet: bounds and the simulated refit against arithmetic by
hand, and the trace that Perfetto reads."""

import json
import re

import pytest

# Llama-3-70B: 141 GB in bf16.
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def model_bytes():
    c = LLAMA_70B
    h, kv = c["hidden_size"], c["num_key_value_heads"] * 128
    layer = 2 * h * h + 2 * kv * h + 3 * h * c["intermediate_size"] + 2 * h
    return 2 * (c["num_hidden_layers"] * layer + 2 * c["vocab_size"] * h + h)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_70B))
    return path


@pytest.fixture
def plan(weft, config):
    return lambda source, target, *more: weft(
        "plan", "--config", config, "--from", source, "--to", target, *more)


@pytest.fixture
def simulate(plan):
    def run(*args):
        result = plan(*args, "--gpus-per-node", 8, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["simulation"]

    return run


@pytest.mark.parametrize("source, target, copies, senders, receivers", [
    ("megatron:tp=8", "vllm:tp=8", 1, 8, 8),
    ("megatron:tp=8", "vllm:tp=8,dp=4", 4, 8, 32),
    ("megatron:tp=8,pp=4", "vllm:tp=8,dp=4", 4, 32, 32)])
def test_bounds(simulate, source, target, copies, senders, receivers):
    """All bytes cross nodes, at 50 GB/s a NIC each way. Norms are on all ranks
    of a tensor-parallel group, which is less than a thousandth."""
    found = simulate(source, target)
    total = copies * model_bytes()
    assert found["total_bytes"] == pytest.approx(total, rel=1e-3)
    assert found["cross_node_bytes"] == found["total_bytes"]
    assert found["receive_bound_seconds"] == pytest.approx(
        total / (receivers * 50e9), rel=1e-3)
    assert found["send_bound_seconds"] == pytest.approx(
        total / (senders * 50e9), rel=1e-3)
    assert found["seconds"] >= found["bound_seconds"] >= max(
        found["receive_bound_seconds"], found["send_bound_seconds"])
    # The published case of one node: nothing else stands in the way.
    if copies == 1:
        assert found["seconds"] == pytest.approx(0.353, rel=0.01)


def test_slower_links_and_one_node(simulate):
    slow = simulate("megatron:tp=8", "vllm:tp=8", "--nic-gbs", 25)
    assert slow["bound_seconds"] == pytest.approx(
        model_bytes() / (8 * 25e9), rel=1e-2)
    near = simulate("megatron:tp=8", "vllm:tp=8", "--colocated",
                    "--nvlink-gbs", 400)
    assert near["cross_node_bytes"] == 0
    assert near["bound_seconds"] == pytest.approx(
        model_bytes() / (8 * 400e9), rel=1e-2)
    assert all("nvlink" in port["port"] for port in near["ports"])


def test_trace(simulate, tmp_path):
    path = tmp_path / "trace.json"
    found = simulate("megatron:tp=2", "vllm:tp=4", "--trace", path)
    events = json.loads(path.read_text())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    named = {(e["pid"], e["tid"]) for e in events
             if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in slices} == named
    assert sum(e["args"]["bytes"] for e in slices) == 2 * found["total_bytes"]
    assert max(e["ts"] + e["dur"] for e in slices) == pytest.approx(
        found["seconds"] * 1e6)


def test_one_tensor(plan, tmp_path):
    """Rows over three trainer ranks in chunks of ceil(1024 / 3), heads over 16
    engine ranks: two of them share a head."""
    name = "model.layers.3.self_attn.k_proj.weight"
    picture = tmp_path / "k.svg"
    result = plan("fsdp:shard=3", "vllm:tp=16", "--tensor", name, "--svg",
                  picture, "--json")
    assert result.returncode == 0, result.stderr
    rows = {rank: [] for rank in range(16)}
    for part in json.loads(result.stdout)["parts"]:
        (begin, end), columns = part["box"]
        assert columns == [0, 8192] and part["tensor"] == name
        assert 342 * part["source_rank"] <= begin < end
        assert end <= min(1024, 342 * (part["source_rank"] + 1))
        rows[part["engine_rank"]] += range(begin, end)
    for rank, found in rows.items():
        head = rank // 2
        assert sorted(found) == list(range(128 * head, 128 * head + 128))
    assert picture.read_text().startswith("<svg")
    result = plan("fsdp:shard=3", "vllm:tp=16", "--tensor", "k_proj.weight")
    assert result.returncode == 1 and ".k_proj.weight" in result.stderr


def test_html(plan, tmp_path):
    """One cell a pair of ranks; those between which nothing goes are grey."""
    page = tmp_path / "fleet.html"
    result = plan("megatron:tp=2,pp=2", "vllm:tp=2,pp=2", "--html", page,
                  "--gpus-per-node", 8)
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    titles = re.findall(r"fill='([^']*)'><title>([^<]*)<", text)
    assert [title.partition(":")[0] for _, title in titles] == [
        f"trainer {t} to engine {e}" for e in range(4) for t in range(4)]
    grey = {title for colour, title in titles if colour == "#f4f4f4"}
    # Stage 0 of the trainer has nothing for stage 1 of the engine.
    assert grey == {f"trainer {t} to engine {e}: 0 B" for e, t in [
        (0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)]}
    assert "Busiest ports" in text and "coverage" in text


def test_what_is_refused(plan, tmp_path):
    result = plan("hf", "vllm", "--trace", tmp_path / "t.json")
    assert result.returncode == 1
    assert "say --gpus-per-node as well" in result.stderr
    result = plan("hf", "vllm", "--gpus-per-node", 8, "--trace",
                  tmp_path / "no" / "t.json")
    assert result.returncode == 1 and "cannot write" in result.stderr
    assert plan("hf", "vllm", "--gpus-per-node", 0).returncode == 2
