"""What is wrong with the words of a command is said before it waits."""

import json
import resource
import subprocess

import pytest

import conftest

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 16,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}


@pytest.fixture
def catalog():
    """The address of a catalog that nobody publishes to."""
    process = subprocess.Popen(
        [conftest.BINARY, "catalog", "--listen", "127.0.0.1:0", "--http",
         "none", "--json"], stdout=subprocess.PIPE, text=True)
    yield json.loads(process.stdout.readline())["address"]
    process.terminate()
    process.communicate(timeout=conftest.PATIENCE)


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:0", ":6470", "127.0.0.1:port",
    "http://127.0.0.1:6470", "unix:/tmp/catalog", "127.0.0.1:1,127.0.0.1"])
def test_an_address_of_another_form(weft, address):
    done = weft("status", "--catalog", address)
    assert done.returncode == 1
    assert "of a catalog is not of the form HOST:PORT" in done.stderr


@pytest.mark.parametrize("words, code, sentence", [
    (["--version", "7"], 1, "is not of the form RUN:EPOCH:STEP"),
    (["--transport", "rdma"], 1, "unknown transport \"rdma\""),
    (["--device", "tpu"], 1, "tpu"),
    (["--rank", "-1"], 2, "not a number of 0 or more"),
    (["--staging-bytes", "-1"], 2, "not a number of 0 or more"),
])
def test_pull_waits_for_no_version_first(weft, catalog, tmp_path, words, code,
                                         sentence):
    options = {"--rank": "0", "--timeout": "1000"}
    options.update(dict([words]))
    done = weft("pull", "--catalog", catalog, "--model", "m", "--layout", "hf",
                "--out", tmp_path / "out.safetensors",
                *(word for pair in options.items() for word in pair))
    assert done.returncode == code
    assert sentence in done.stderr


@pytest.mark.parametrize("words", [
    ["catalog", "--listen", "127.0.0.1:0", "--max-calls", "nan"],
    ["catalog", "--listen", "127.0.0.1:0", "--max-calls", "inf"],
    ["events", "--catalog", "127.0.0.1:1", "--since", "-1"],
    ["publish", "--model", "m", "--checkpoint", "c", "--layout", "hf",
     "--rank", "-1"],
])
def test_numbers_that_are_none(weft, words):
    done = weft(*words)
    assert done.returncode == 2
    assert "not a number of 0 or more" in done.stderr


def test_folders_where_files_should_be(weft, tmp_path):
    config = tmp_path / "config.json"
    plan = ("plan", "--from", "hf", "--to", "vllm")
    config.write_text(json.dumps(CONFIG))
    assert weft(*plan, "--config", config).returncode == 0
    index = tmp_path / "model.safetensors.index.json"
    index.mkdir()
    done = weft(*plan, "--checkpoint", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f'weft plan: cannot read "{index}": Is a directory\n'
    config.unlink()
    config.mkdir()
    done = weft(*plan, "--config", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f'weft plan: cannot read "{config}": Is a directory\n'


def test_no_thread_can_be_started():
    # No address space holds the stack of a second thread.
    stack = 1 << 50

    def limit():
        resource.setrlimit(resource.RLIMIT_STACK,
                           (stack, resource.RLIM_INFINITY))

    done = subprocess.run(
        [conftest.BINARY, "catalog", "--listen", "127.0.0.1:0", "--http",
         "none"], preexec_fn=limit, capture_output=True, text=True,
        timeout=conftest.PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "weft catalog: no thread can be started: "), done.stderr
