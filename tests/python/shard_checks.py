"""`weft shard` against the NumPy oracle, rank after rank of random layouts."""

import numpy as np

import cases
import files
import oracle
from test_plain_path import done, refused


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


def compare(weft, tmp_path, rng, config, tensors, draw, count):
    """All ranks of `count` layouts, which draw(rng) gives, byte for byte. A
    layout that no framework has is refused at one of its ranks at least: a
    pipeline stage without layers has nothing to say about its experts."""
    folder = tmp_path / "checkpoint"
    cases.write_checkpoint(folder, config, tensors)
    out = tmp_path / "out.safetensors"
    for _ in range(count):
        spec = cases.mostly_legal_spec(rng, config, tensors, draw)
        step = int(rng.choice([0, 1, 6]))
        is_legal = cases.is_legal(config, tensors, spec)
        stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
        for rank in range(oracle.num_ranks(spec)):
            case_args = ("--checkpoint", folder, "--layout", spec, "--rank",
                         rank, "--step", step)
            out.unlink(missing_ok=True)
            result = weft("shard", *case_args, "--out", out)
            if not is_legal:
                if result.returncode == 0:
                    continue
                refused(result, "shard")
                break
            done(result)
            assert_equal(files.read(out),
                         oracle.shard(config, stepped, spec, rank))
            if rank == 0:
                done(weft("verify", out, *case_args))
        else:
            assert is_legal, f"no rank of {spec} was refused"
