"""A placement of the package, written as JSON, is what `weft plan --diff`
reads."""

import dataclasses
import json
import subprocess

import pytest
from conftest import BINARY

weft = pytest.importorskip("weft")

DENSE = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
    "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 256,
    "vocab_size": 128, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
MAMBA = {
    "architectures": ["NemotronHForCausalLM"], "hidden_size": 16,
    "num_hidden_layers": 1, "hybrid_override_pattern": "M",
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "intermediate_size": 16, "mamba_num_heads": 4, "mamba_head_dim": 8,
    "n_groups": 1, "ssm_state_size": 4, "conv_kernel": 4, "vocab_size": 64,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


@pytest.mark.parametrize("config, layout, kept", [
    (DENSE, "vllm:tp=2,quant=fp8-block", "scaled"),
    (MAMBA, "vllm:tp=1", "transform")])
def test_it_is_read_back(tmp_path, config, layout, kept):
    placement = dataclasses.asdict(
        weft.recipe_placement(config, layout, 0))
    assert placement["scaled"] if kept == "scaled" else any(
        fragment["transform"] == "neg_exp" for stored in placement["stored"]
        for fragment in stored["fragments"])
    (tmp_path / "config.json").write_text(json.dumps(config))

    def diff(described):
        path = tmp_path / "captured.json"
        path.write_text(json.dumps(described))
        return subprocess.run(
            [BINARY, "plan", "--config", tmp_path, "--from", "hf", "--to",
             layout, "--diff", path, "--json"],
            capture_output=True, text=True, timeout=60, check=False)

    result = diff(placement)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["equal"], result.stdout
    # Lost, it is no longer the same, or no placement at all.
    if kept == "scaled":
        result = diff(placement | {"scaled": []})
        assert result.returncode == 1 and "no conversion" in result.stderr
        return
    for stored in placement["stored"]:
        for fragment in stored["fragments"]:
            fragment["transform"] = "none"
    assert not json.loads(diff(placement).stdout)["equal"]
