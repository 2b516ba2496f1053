"""What a type checker knows of the package, from its annotations and the stub
of the extension."""

import pathlib
import subprocess
import sys

import pytest

weft = pytest.importorskip("weft")
pytest.importorskip("mypy")

GOOD = '''
import weft
from typing import assert_type

def refit(target: weft.Tensors) -> float:
    with weft.Receiver(catalog="h:1", model="m", target=target) as receiver:
        report = receiver.refit("latest", timeout=3)
        assert_type(report, weft.RefitReport)
        assert_type(receiver.fenced, bool)
        return report.seconds

def publish(source: weft.Tensors) -> str:
    with weft.Publisher(catalog="h:1", model="m", source=source) as publisher:
        with publisher.update():
            pass
        assert_type(publisher.publish(step=1), weft.PublishReport)
    assert_type(weft.Catalog("h:1").versions("m"), list[dict])
    return weft.plan([], weft.Placement("hf", 0, 1)).explain()
'''
BAD = '''
import weft
weft.Receiver(catalog="h:1", target=None)
weft.recipe_placement({}, "hf", "0")
'''


def check(tmp_path, text):
    program = tmp_path / "program.py"
    program.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache",
         program], capture_output=True, text=True, check=False)


def test_annotations_are_found_and_right(tmp_path):
    result = check(tmp_path, GOOD)
    assert result.returncode == 0, result.stdout + result.stderr


def test_wrong_calls_are_found(tmp_path):
    result = check(tmp_path, BAD)
    assert result.returncode == 1, result.stdout + result.stderr
    assert 'Missing named argument "model"' in result.stdout \
        or 'Missing positional argument "model"' in result.stdout, result.stdout
    assert 'incompatible type "str"; expected "int"' in result.stdout


def test_the_extension_has_a_stub():
    import weft._native as native
    stub = pathlib.Path(native.__file__).parent / "_native.pyi"
    text = stub.read_text()
    public = {name for name in vars(native) if not name.startswith("_")}
    assert {n for n in public if f" {n}" not in text} == set()
