"""bench/gpu/today.py, rehearsed over gloo: it compares all bytes itself."""

import json
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).resolve().parents[3] / "bench/gpu/today.py"
sys.path.insert(0, str(SCRIPT.parent))
import today  # noqa: E402
import today_model  # noqa: E402


def run(*args):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--small", "--runs", "2",
         "--json", *map(str, args)], capture_output=True, text=True, timeout=300,
        check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_model_is_qwen3_8b():
    pieces = today_model.pieces_of(today_model.Shape())
    assert len(pieces) == 399
    assert today_model.wire_bytes(pieces, False) == 16_381_470_720
    # A byte and, for each 16,384 of them, a scale: less than two.
    linear = sum(piece.elements for piece in pieces if piece.quantised)
    assert linear == 36 * 4096 * (2 * 4096 + 2 * 1024 + 3 * 12288)
    assert today_model.wire_bytes(pieces, True) == (
        16_381_470_720 - linear + linear // 128 // 128 * 4)


def test_memcpy_is_its_own_bound():
    """One of nine medians had a ratio beside 1, by the rounding of two
    divisions."""
    for microseconds in range(1, 5_000):
        line, = today.to_lines(
            [{"method": "memcpy", "wire_bytes": 16_381_470_720,
              "model_bytes": 16_381_470_720, "more_mib": [0, 0],
              "seconds": [microseconds / 1e6, microseconds / 1e6 + 1e-7]}], "m")
        assert line["ratio"] == 1, line


def test_every_way_arrives(tmp_path):
    weft = tmp_path / "weft.jsonl"
    weft.write_text(
        'what is not JSON is left alone\n'
        + json.dumps({"case": "gpu/refit-hf-to-vllm:tp=1", "unit": "GB/s",
                      "value": 400.0, "bound": 410.0, "ratio": 0.975, "runs": 5,
                      "spread": 0.01, "machine": "m"}) + "\n"
        + json.dumps({"case": "gpu/empty-refit", "value": 1.0}) + "\n")
    lines = {line["case"]: line for line in run("--weft", weft)}
    assert list(lines) == [
        "today/memcpy", "today/ipc", "today/nccl", "today/nccl-temporary",
        "today/nccl-buckets", "today/fp8-nccl-buckets", "weft"]
    for line in lines.values():
        assert line["value"] > 0 and line["bound"] > 0 and line["ratio"] > 0
    assert lines["today/memcpy"]["ratio"] == 1
    assert abs(lines["weft"]["milliseconds"] - 16381.470720 / 400) < 1e-6
