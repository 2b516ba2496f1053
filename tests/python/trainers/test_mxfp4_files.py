"""What Weft reads of MXFP4 is what transformers makes of it."""

import cases
import files
import numpy as np
import pytest
import torch
from conftest import SEED
from test_mxfp4 import made
from test_plain_path import done
from transformers.integrations.mxfp4 import convert_moe_packed_tensors


@pytest.mark.parametrize("case", range(3))
def test_as_transformers_dequantises(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, 7200 + case])
    # For 255, which files do not have, transformers multiplies by infinity.
    config, packed, _ = made(rng, scales_below=255)
    folder, out = tmp_path / "packed", tmp_path / "out.safetensors"
    cases.write_checkpoint(folder, config, packed)
    done(weft("shard", "--checkpoint", folder, "--layout", "hf", "--rank", 0,
              "--out", out))
    found = files.read(out)
    stacks = [name.removesuffix("_blocks") for name in packed
              if name.endswith("_blocks")]
    assert len(stacks) == 2 * config["num_hidden_layers"]
    for name in stacks:
        blocks, scales = (torch.from_numpy(packed[name + part].bits)
                          for part in ("_blocks", "_scales"))
        expected = convert_moe_packed_tensors(blocks, scales)
        bits = expected.view(torch.int16).numpy().view(np.uint16)
        assert found[name].dtype == "BF16"
        np.testing.assert_array_equal(found[name].bits, bits, name)
