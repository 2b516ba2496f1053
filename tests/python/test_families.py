"""Families with latent attention, experts of all kinds, Mamba and gated delta
nets: recipes against the NumPy oracle, byte for byte."""

import json

import numpy as np
import pytest

import cases
import family_cases
import files
import oracle
from conftest import SEED
from test_plain_path import done, refused
from test_processes import (assert_holds, catalog, publish,  # noqa: F401
                            pull, refits, start)


def assert_equal(found, expected):
    """Bytes, but for what was computed: within one unit in the last place."""
    computed = {n for n in expected if n.endswith(".mixer.A")}
    files.assert_equal({n: t for n, t in found.items() if n not in computed},
                       {n: t for n, t in expected.items()
                        if n not in computed})
    for name in computed:
        assert found[name].dtype == "F32", name
        difference = (found[name].bits.astype(np.int64) -
                      expected[name].bits.astype(np.int64))
        assert np.abs(difference).max(initial=0) <= 1, name


@pytest.mark.parametrize("family", family_cases.FAMILIES)
@pytest.mark.parametrize("case", range(12))
def test_shard_is_the_oracles(weft, tmp_path, family, case):
    number = list(family_cases.FAMILIES).index(family)
    rng = np.random.default_rng([SEED, 7000 + 100 * number + case])
    config = family_cases.random_config(rng, family)
    tensors = family_cases.random_checkpoint(rng, config)
    folder = tmp_path / "checkpoint"
    cases.write_checkpoint(folder, config, tensors)

    def draw(rng):
        return family_cases.random_spec(rng, config, tmp_path)

    for _ in range(3):
        spec = cases.mostly_legal_spec(rng, config, tensors, draw)
        legal = cases.is_legal(config, tensors, spec)
        step = int(rng.choice([0, 1, 6]))
        stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
        for rank in range(oracle.num_ranks(spec)):
            case_args = ("--checkpoint", folder, "--layout", spec, "--rank",
                         rank, "--step", step)
            out = tmp_path / "out.safetensors"
            result = weft("shard", *case_args, "--out", out)
            if not legal:
                refused(result, "shard")
                break
            done(result)
            assert_equal(files.read(out),
                         oracle.shard(config, stepped, spec, rank))
            if rank == 0:
                done(weft("verify", out, *case_args))
            out.unlink()
