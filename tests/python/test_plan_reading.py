"""Reading a plan: a topology file, what is left over, two plans side by side,
an engine's own description beside the recipe's, options that do not go
together."""

import json

import pytest

# Two layers, 8 query heads and 2 of keys and values of 4; 3 vocabularies of 8.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
K_PROJ = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture
def plan(weft, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))

    def run(source, target, *more, config=path):
        return weft("plan", "--config", config, "--from", source, "--to",
                    target, *more)

    return run


@pytest.fixture
def answer(plan):
    def run(*args, **keys):
        result = plan(*args, "--json", **keys)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture
def topology(tmp_path):
    def write(text):
        path = tmp_path / "topology.yaml"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    return write


def test_a_topology_is_the_simple_form_written_out(answer, topology):
    """Two nodes of two GPUs a side; JSON is YAML."""
    path = topology({"latency_us": 5, "nodes": [
        {"count": 2, "gpus": 2, "trainer": "0-3"},
        {"count": 2, "gpus": 2, "engine": [0, 1, 2, 3]}]})
    fleet = ("fsdp:shard=4", "vllm:tp=4")
    found = answer(*fleet, "--topology", path)["simulation"]
    simple = answer(*fleet, "--gpus-per-node", 2)["simulation"]
    for port in found["ports"] + simple["ports"]:
        del port["node"]  # named by each in its own way
    assert found == simple


def test_replicas_of_a_node_could_share(answer):
    """Four replicas on two nodes, each of which would take the model once."""
    fleet = answer("fsdp:shard=2", "vllm:dp=4", "--gpus-per-node", 2)
    found = fleet["simulation"]
    assert found["cross_node_bytes"] == 4 * fleet["unique_bytes"]
    assert found["once_per_node_bytes"] == 2 * fleet["unique_bytes"]
    assert found["once_per_node_seconds"] == pytest.approx(
        found["receive_bound_seconds"] / 2)


def test_nics_rails_and_the_gather(answer, topology):
    """Four trainer ranks on one node share two NICs of 10 GB/s; two engine
    ranks have a node each with two NICs of 10 GB/s, so 20 each."""
    path = topology("""
rails: yes
nodes:
  - {name: t, gpus: 4, nics: 2, nic_gbs: 10, nvlink_gbs: 100, trainer: 0-3}
  - {count: 2, gpus: 1, nics: 2, nic_gbs: 10, engine: 0-1}
""")
    fleet = answer("fsdp:shard=4", "vllm:dp=2", "--topology", path)
    found = fleet["simulation"]
    total = found["total_bytes"]
    assert total == found["cross_node_bytes"] == 2 * fleet["unique_bytes"]
    assert found["send_bound_seconds"] == pytest.approx(total / 20e9)
    assert found["receive_bound_seconds"] == pytest.approx(total / 40e9)
    assert found["gather_seconds"] == pytest.approx(
        fleet["unique_bytes"] / 400e9)
    assert found["sending"]["nics"] == found["receiving"]["nics"] == 2
    assert found["receiving"]["max_over_mean"] == pytest.approx(1)
    # Ranks 2 and 3 send by NIC 1, and engines have but one port, of rail 0.
    by_rank = {source["rank"]: source["bytes"] for source in fleet["sources"]}
    assert found["cross_rail_bytes"] == by_rank[2] + by_rank[3]
    assert {"nic of trainer ranks 0, 1, sending",
            "nic of trainer ranks 2, 3, sending"} <= {
                port["port"] for port in found["ports"]}
    assert all(port["node"] for port in found["ports"])


@pytest.mark.parametrize("text, parts", [
    ("nodes: [{trainer: 0-3, engines: 0-1, nic_gbs: fast}]",
     ['topology.yaml:1: unknown key "engines"', "nic_gbs: expected a number",
      "no place for 2 of 2 engine ranks: 0,1"]),
    ("nodes:\n- {gpus: 2, trainer: 0-3}\n- {engine: 1}",
     ["topology.yaml:2: trainer: 4 ranks for 2 GPUs",
      "no place for 4 of 4 trainer ranks", "1 of 2 engine ranks: 0"]),
    ("nodes:\n- {trainer: '0-3,2'}\n- {engine: 0-2}",
     ["trainer rank 2 is placed more than once",
      "engine rank 2 is not below the 2 of the layout"]),
    # One sentence for all of them.
    ("nodes:\n- {gpus: 1048576, count: 16, trainer: 0-16777214}\n- {engine: "
     "'0,0,0,0,0,0,0,1'}", ["trainer ranks 4, 5, 6, 7, 8, 9, 10, 11 and "
                            "16777203 more are not below the 4",
                            "engine ranks 0, 0, 0, 0, 0, 0 are placed more"]),
    # What a parser would read the first or the last of.
    ("latency_us: 1\nnodes:\n- {gpus: 4, gpus: 8, trainer: 0-3, engine: 0-1}"
     "\nlatency_us: 2", ['topology.yaml:3: key "gpus" is given twice',
                         'topology.yaml:4: key "latency_us" is given twice']),
    ("---\n# one\nnodes:\n- {trainer: 0-3, engine: 0-1}\n...\n---\nrails: true",
     ["line 7: a second YAML document"]),
    ("nodes: [{trainer: 0-3, engine: 0-1, name: [a]}]",
     ["topology.yaml:1: name: expected a word"]),
    ("latency_us: inf\nnodes: [{trainer: 0-3, engine: 0-1, nic_gbs: nan, "
     "nvlink_gbs: 1e-30}]",
     ["latency in seconds is inf, it must be from 0 to 1e+06",
      'NIC of node "node 0" is nan', 'NVLink of node "node 0" is 1e-21, it']),
    ("spine_gbs: -1\nnodes: [{trainer: 0-3, engine: 0-1}]",
     ["of the spine is -1e+09, it must be from 0"]),
    ("nodes: " + "[" * 20000, ["topology.yaml: nested too deep"]),
    ("nodes: &a [*a]", ["a node: expected a mapping"]),
    ("\0\1\2", ["topology.yaml"]), ("", ["expected a mapping"]),
    ("nodes: [{trainer: 0-3, engine: 0-1, nic_gbs: 0}]",
     ['bytes per second of a NIC of node "node 0" is 0']),
    ("nodes: [{trainer: 3-0, engine: x, gpus: 0}]",
     ["trainer: expected ranks such as 0-7", "engine: expected ranks",
      "gpus: expected a whole number"]),
    ("nodes: []", ["expected a list of groups of nodes"]),
    ("[]", ['expected a mapping with "nodes"']),
    ("nodes: [", ["topology.yaml:1"])])
def test_what_is_wrong_with_a_topology(plan, topology, text, parts):
    """All at once, by line."""
    result = plan("fsdp:shard=4", "vllm:tp=2", "--topology", topology(text))
    assert result.returncode == 1
    for part in parts:
        assert part in result.stderr


TWO_TENSORS = """recipe: 1
family: two
architectures: [LlamaForCausalLM]
config:
  H: {key: hidden_size}
layers: 1
checkpoint:
  tensors:
    - {name: both, shape: [4, H]}
    - {name: passed.over, shape: [H]}
vllm:
  tensors:
    - {name: both, of: both}
"""


def test_what_is_left_over(plan, answer, tmp_path):
    fleet = ("fsdp:shard=2", "vllm:tp=2")
    found = answer(*fleet)
    assert found["unused_checkpoint_tensors"] == []
    assert found["unread_trainer_tensors"] == []
    assert "left over: no tensor" in plan(*fleet).stdout
    recipe = tmp_path / "two.yaml"
    recipe.write_text(TWO_TENSORS)
    found = answer("fsdp:shard=2", "vllm", "--recipes", recipe)
    assert found["unused_checkpoint_tensors"] == ["passed.over"]
    assert found["unread_trainer_tensors"] == ["passed.over"]
    text = plan("fsdp:shard=2", "vllm", "--recipes", recipe).stdout
    assert "1 tensor of the checkpoint is on no engine rank: passed.over" in text
    assert "1 tensor of the trainer is read by nobody: passed.over" in text


def test_rules_are_named(answer, plan, tmp_path):
    recipe = tmp_path / "two.yaml"
    recipe.write_text(TWO_TENSORS)
    options = ("fsdp:shard=2", "vllm", "--recipes", recipe, "--explain", "both")
    # Line 9 lists the tensor of the checkpoint, line 13 the engine's.
    for part in answer(*options)["parts"]:
        assert part["rule"] == f"{recipe}:13"
        assert part["source_rule"] == f"{recipe}:9"
    assert f"{recipe}:13 <- {recipe}:9" in plan(*options).stdout


def test_fp8_crosses_as_fp8_where_the_trainer_has_whole_blocks(answer, plan,
                                                              tmp_path):
    """One layer of 256 x 256 matrices, k and v of 128 rows: two shards of those
    hold no whole block, so they cross as they are."""
    config = tmp_path / "blocks.json"
    config.write_text(json.dumps(CONFIG | {
        "hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 256, "vocab_size": 256}))
    plain = 2 * (2 * 256 * 256 + 3 * 256)  # both vocabularies, three norms
    wide = 5 * (256 * 256 + 4 * 4)  # q, o, gate, up, down and their scales
    narrow = 2 * (128 * 256 + 2 * 4)
    for source, expected in [
            ("fsdp:shard=1,quant=fp8-block", plain + wide + narrow),
            ("fsdp:shard=2,quant=fp8-block", plain + wide + 2 * 2 * 128 * 256)]:
        fleet = answer(source, "vllm:quant=fp8-block", config=config)
        assert fleet["sent_bytes"] == fleet["unique_bytes"] == expected
        stages = fleet["ranks"][0].get("stages", {"pieces": 0})
        assert (stages["pieces"] > 0) == ("=2" in source)
    text = plan("fsdp:shard=2", "vllm:quant=fp8-block", config=config).stdout
    assert "FP8: 1 engine rank quantises" in text


def test_explain_is_tensor(answer):
    """--explain is the same as --tensor; conversions say whether they lose."""
    fleet = ("megatron:tp=2", "vllm:tp=2")
    by_tensor = answer(*fleet, "--tensor", K_PROJ)
    assert by_tensor == answer(*fleet, "--explain", K_PROJ)
    assert all(not part["lossy"] for part in by_tensor["parts"])
    halves = answer("fsdp:shard=2,dtype=f32", "vllm", "--explain", K_PROJ)
    assert [part["lossy"] for part in halves["parts"]] == [True, True]
    assert {part["conversion"] for part in halves["parts"]} == {"F32 -> BF16"}


@pytest.mark.parametrize("options, parts", [
    (("--rank", 0, "--tensor", K_PROJ, "--svg", "x.svg", "--html", "x.html"),
     ["--rank explains one rank; leave out --tensor", "leave out --svg",
      "leave out --html"]),
    (("--rank", 0, "--trace", "x.json", "--gpus-per-node", 8),
     ["--rank explains one rank; leave out --gpus-per-node",
      "leave out --trace"]),
    (("--tensor", K_PROJ, "--html", "x.html"),
     ["--tensor explains one tensor; leave out --html"]),
    (("--diff", "vllm:tp=4", "--gpus-per-node", 8),
     ["--diff compares plans; leave out --gpus-per-node"]),
    (("--fleet", "--rank", 0), ["--fleet is about all ranks; leave out --rank"]),
    (("--nic-gbs", 25), ["--nic-gbs is for the simulation"]),
    (("--window", 4), ["--window needs a simulation"]),
    (("--svg", "x.svg"), ["--svg draws one tensor"]),
    (("--link-gbs", 4), ["--link-gbs is for the bound of one rank"])])
def test_options_without_effect_are_refused(plan, tmp_path, monkeypatch,
                                            options, parts):
    monkeypatch.chdir(tmp_path)
    result = plan("megatron:tp=2", "vllm:tp=2", *options)
    assert result.returncode == 1 and not result.stdout
    for part in parts:
        assert part in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_fleet_is_what_no_rank_means(answer):
    fleet = ("megatron:tp=2", "vllm:tp=2")
    timeless = [{key: value for key, value in found.items()
                 if not key.startswith("seconds")}
                for found in (answer(*fleet, "--fleet"), answer(*fleet))]
    assert timeless[0] == timeless[1] and timeless[0]["coverage"]


def differences(found):
    return {(each["rank"], each["stored"], each["what"]): (
        each["ours"], each["theirs"]) for each in found["differences"]}


def test_two_targets(answer, plan):
    found = answer("megatron:tp=2", "vllm:tp=2", "--diff", "vllm:tp=4")
    assert not found["equal"] and found["ranks"] == [2, 4]
    of_rank_1 = {what: both for (rank, stored, what), both in
                 differences(found).items()
                 if rank == 1 and stored == "model.layers.0.self_attn.o_proj"
                                            ".weight"}
    assert of_rank_1 == {
        "shape": ("[32,16]", "[32,8]"),
        "boxes": ("model.layers.0.self_attn.o_proj.weight [0,32)x[16,32)",
                  "model.layers.0.self_attn.o_proj.weight [0,32)x[8,16)"),
        "sources": ("rank 1: 1024 B", "rank 0: 512 B")}
    text = plan("megatron:tp=2", "vllm:tp=2", "--diff", "vllm:tp=4").stdout
    assert "model.layers.*.self_attn.o_proj.weight\n" in text
    assert "compared are engine ranks 0 to 1" in text


def test_two_sources(answer, plan):
    same = answer("megatron:tp=2", "vllm:tp=2", "--diff", "vllm:tp=2")
    assert same["equal"] and not same["differences"] and not same["sources"]
    found = answer("fsdp:shard=2", "vllm", "--diff-from", "hf")
    assert not found["equal"]
    assert {what for _, _, what in differences(found)} == {"sources"}
    halves, all_of_it = found["sources"]
    total = halves["ours"] + all_of_it["ours"]
    assert (halves["theirs"], all_of_it["theirs"]) == (total, 0)
    text = plan("fsdp:shard=2", "vllm", "--diff-from", "hf").stdout
    assert "TRAINER RANK" in text


def captured():
    """Rank 0 of vllm:tp=1, written from vLLM's own naming: what it fuses lies
    one below the other."""
    width, kv, wide, words = 32, 8, 48, 64
    tensors, stored = [], []

    def block(rows, begin, shape):
        columns = len(shape) == 2
        tensors.append(rows)
        box = [[0, n] for n in shape]
        strides = [shape[1], 1] if columns else [1]
        return {"tensor": len(tensors) - 1, "box": box,
                "modes": [[[n, s]] for n, s in zip(shape, strides)],
                "offset": begin * (shape[1] if columns else 1)}

    def add(name, *parts):
        fragments, rows = [], 0
        for part, shape in parts:
            fragments.append(block(
                {"name": part, "dtype": "BF16", "shape": shape}, rows, shape))
            rows += shape[0]
        stored.append({"name": name, "dtype": "BF16",
                       "shape": [rows, *parts[0][1][1:]],
                       "fragments": fragments, "zero_fill": []})

    def alone(name, shape):
        add(name, (name, shape))

    alone("model.embed_tokens.weight", [words, width])
    for i in range(2):
        layer = f"model.layers.{i}."
        add(layer + "self_attn.qkv_proj.weight",
            (layer + "self_attn.q_proj.weight", [width, width]),
            (layer + "self_attn.k_proj.weight", [kv, width]),
            (layer + "self_attn.v_proj.weight", [kv, width]))
        alone(layer + "self_attn.o_proj.weight", [width, width])
        add(layer + "mlp.gate_up_proj.weight",
            (layer + "mlp.gate_proj.weight", [wide, width]),
            (layer + "mlp.up_proj.weight", [wide, width]))
        alone(layer + "mlp.down_proj.weight", [width, wide])
        alone(layer + "input_layernorm.weight", [width])
        alone(layer + "post_attention_layernorm.weight", [width])
    alone("model.norm.weight", [width])
    alone("lm_head.weight", [words, width])
    return {"layout_spec": "vllm:tp=1", "rank": 0, "num_ranks": 1,
            "tensors": tensors, "stored": stored}


def test_a_plan_in_a_file(answer, plan, tmp_path):
    path = tmp_path / "rank1.plan"
    said = plan("fsdp:shard=3", "vllm:tp=2", "--rank", 1, "--out", path)
    assert said.returncode == 0, said.stderr
    assert f"as a file: {path.stat().st_size} B" in said.stdout
    found = answer("fsdp:shard=3", "vllm:tp=2", "--rank", 1)
    assert found["file_bytes"] == path.stat().st_size

    same = answer("fsdp:shard=3", "vllm:tp=2", "--diff", path)
    assert same["equal"] and same["misfit"] is None and same["rank"] == 1
    text = plan("fsdp:shard=3", "vllm:tp=2", "--diff", path).stdout
    assert "the same plan, and it still fits (checked)" in text
    # Another trainer, another engine: the plan is for neither.
    other = answer("fsdp:shard=4", "vllm:tp=2", "--diff", path)
    assert not other["equal"] and "the plan is for sources" in other["misfit"]
    other = answer("fsdp:shard=3", "vllm:tp=4", "--diff", path)
    assert not other["equal"] and "the plan is for target" in other["misfit"]
    text = plan("fsdp:shard=3", "vllm:tp=4", "--diff", path).stdout
    assert "the file does not fit these layouts" in text


def test_files_that_are_no_plan(plan, tmp_path):
    path = tmp_path / "rank1.plan"
    plan("fsdp:shard=3", "vllm:tp=2", "--rank", 1, "--out", path)
    whole = path.read_bytes()
    for spoiled, part in [(whole[:-1], "damaged"), (whole[:20], "damaged"),
                          (whole[:12] + bytes(len(whole) - 12), "claim")]:
        path.write_bytes(spoiled)
        result = plan("fsdp:shard=3", "vllm:tp=2", "--diff", path)
        assert result.returncode == 1 and part in result.stderr, result.stderr
    path.write_bytes(whole)
    result = plan("fsdp:shard=3", "vllm", "--diff", path)
    assert result.returncode == 1 and "plan of rank 1" in result.stderr
    result = plan("hf", "vllm", "--out", path)
    assert result.returncode == 1 and "say --rank as well" in result.stderr


def test_what_cannot_be_compared(plan, tmp_path):
    for diff, part in [
            (tmp_path / "missing.json", "cannot read"),
            ("vlm:tp=2", "vlm"), ("vllm:tp=3", "tp=3")]:
        result = plan("hf", "vllm", "--diff", diff)
        assert result.returncode == 1 and part in result.stderr
    path = tmp_path / "captured.json"
    path.write_text(json.dumps(captured()))
    result = plan("hf", "vllm", "--diff", path, "--diff-from", "fsdp")
    assert result.returncode == 1 and "leave out one of them" in result.stderr


def test_an_engines_own_description(answer, plan, tmp_path):
    path = tmp_path / "captured.json"
    placement = captured()
    path.write_text(json.dumps(placement))
    found = answer("hf", "vllm", "--diff", path)
    assert found["equal"], found
    # The halves of one tensor swapped, another in f32, a third missing.
    gate_up = next(s for s in placement["stored"]
                   if s["name"] == "model.layers.1.mlp.gate_up_proj.weight")
    gate, up = gate_up["fragments"]
    gate["offset"], up["offset"] = up["offset"], gate["offset"]
    placement["stored"][0]["dtype"] = "F32"
    placement["stored"].pop()
    path.write_text(json.dumps(placement))
    found = differences(answer("hf", "vllm", "--diff", path))
    assert {(stored, what) for _, stored, what in found} == {
        ("model.layers.1.mlp.gate_up_proj.weight", "places"),
        ("model.embed_tokens.weight", "dtype"), ("lm_head.weight", "held")}
    text = plan("hf", "vllm", "--diff", path).stdout
    assert "as the recipe says" in text and "model.layers.*.mlp" in text
    for wrong, part in [
            (dict(placement, rank=1, num_ranks=2),
             "is of rank 1, which is not below the 1 ranks"),
            ({"rank": 0}, "not the JSON of a placement"),
            (dict(placement, tensors=[]), "tensor")]:
        path.write_text(json.dumps(wrong))
        result = plan("hf", "vllm", "--diff", path)
        assert result.returncode == 1 and part in result.stderr


def test_one_document_may_be_marked(plan, topology):
    """What YAML itself may put around a single document."""
    text = ("%YAML 1.2\n---\n# nodes\nnodes: [{trainer: 0-1, engine: 0}]\n"
            "...\n# end\n")
    result = plan("fsdp:shard=2", "vllm", "--topology", topology(text))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words, code, parts", [
    # An option whose value a script has lost.
    (["--explain", ""], 1, ["--tensor is given with nothing"]),
    (["--diff", "", "--trace", ""], 1, ["--diff is given with nothing",
                                        "--trace is given with nothing"]),
    (["--nic-gbs", "nan", "--gpus-per-node", 2], 2,
     ['--nic-gbs: "nan" is not a number above 0']),
    (["--latency-us=-1", "--gpus-per-node", 2], 2,
     ['--latency-us: "-1" is not a number of 0 or more']),
    (["--rank", 0, "--link-gbs", 0], 2, ['"0" is not a number above 0']),
    (["--rank", "one"], 2, ['"one" is not a number of 0 or more']),
    # A name of the engine in place of the checkpoint's.
    (["--explain", "model.layers.0.self_attn.qkv_proj.weight", "--svg",
      "none.svg"], 1, ["qkv_proj.weight\" is a tensor of the engine",
                       '"model.layers.0.self_attn.q_proj.weight"',
                       '"model.layers.0.self_attn.v_proj.weight"']),
    (["--explain", "q_proj"], 1,
     ['for example "model.layers.0.self_attn.q_proj.weight", '
      '"model.layers.1.self_attn.q_proj.weight"']),
])
def test_what_is_wrong_with_options(plan, words, code, parts):
    result = plan("fsdp:shard=2", "vllm", *words)
    assert result.returncode == code, result
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("source, target, parts", [
    ("fsdp:shard=1000000000", "vllm",
     ["fsdp:shard=1000000000 has 1000000000 ranks", "131072"]),
    ("hf", "vllm:dp=131073", ["vllm:dp=131073 has 131073 ranks"]),
    ("fsdp:shard=4294967296,replicate=4294967296", "vllm", ["ranks"])])
def test_no_fleet_is_so_large(plan, source, target, parts):
    """Memory ran out on a slip of the hand."""
    result = plan(source, target)
    assert result.returncode == 1
    assert result.stderr.startswith("weft plan: ")
    for part in parts:
        assert part in result.stderr


def test_experts_that_ranks_do_not_divide(plan, tmp_path):
    """SGLang's ranks hold as many each; the advice is one that it takes."""
    config = tmp_path / "experts.json"
    config.write_text(json.dumps(CONFIG | {
        "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 6,
        "moe_intermediate_size": 8, "head_dim": 4}))
    refused = plan("hf", "sglang:tp=4,ep=4", config=config)
    assert refused.returncode == 1
    advice = "ep=4 does not divide the 6 physical experts; give redundant=2"
    assert advice in refused.stderr
    given = plan("hf", "sglang:tp=4,ep=4,redundant=2", config=config)
    assert given.returncode == 0, given.stderr
