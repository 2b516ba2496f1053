"""vLLM's own server, its engine core in a process of its own: the routes, the
fence and the caches as a trainer's driver sees them."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import tiny_models

HERE = pathlib.Path(__file__).parent
LONG = [(7 * i + 3) % 1000 for i in range(200)]


class Server:
    def __init__(self, folder, port, environment, log):
        self.url = f"http://127.0.0.1:{port}"
        self.model = str(folder)
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server",
             "--model", str(folder), "--skip-tokenizer-init", "--port",
             str(port), "--host", "127.0.0.1", "--enforce-eager", "--dtype",
             "bfloat16", "--max-model-len", "256", "--max-num-seqs", "4",
             "--enable-scale-out",
             "--weight-transfer-config", '{"backend": "weft"}'],
            env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(OSError):
                if self.call("/health", get=True)[0] == 200:
                    return
            time.sleep(0.5)  # the server has no other sign of life
        raise AssertionError("no server: " + self.log.read_text()[-3000:])

    def call(self, path, body=None, get=False):
        """(status, body as text)."""
        request = urllib.request.Request(
            self.url + path, None if get else json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ask(self):
        """(status, token ids) of a greedy answer to a long prompt."""
        status, text = self.call("/inference/v1/generate", {
            "model": self.model, "token_ids": LONG, "sampling_params": {
                "temperature": 0, "max_tokens": 8, "ignore_eos": True,
                "detokenize": False}})
        if status != 200:
            return status, text
        return status, json.loads(text)["choices"][0]["token_ids"]

    def refit(self, version):
        for path, body in [
                ("/start_weight_update", {}),
                ("/update_weights", {"update_info": {"version": version}}),
                ("/finish_weight_update", {"weight_version": version})]:
            status, text = self.call(path, body)
            if status != 200:
                return status, text
        return 200, ""

    def label(self):
        return json.loads(self.call("/weight_info", get=True)[1])[
            "weight_version"]


@pytest.fixture
def server(tmp_path, plugin_path):
    config = tiny_models.config_of("qwen2", tied=False)
    for name, seed in (("a", 1), ("b", 2)):
        tiny_models.write(tmp_path / name, config,
                          tiny_models.random_tensors(config, seed))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "WEFT_FAKE_VERSIONS":
            f"run:0:1={tmp_path / 'a'},run:0:2={tmp_path / 'b'}",
        "WEFT_FAKE_TROUBLE": str(tmp_path / "torn"),
        "PYTHONPATH": os.pathsep.join([
            str(HERE / "http_stub"), str(HERE)])}
    made = Server(tmp_path / "a", port, environment, tmp_path / "server.log")
    made.trouble = tmp_path / "torn"
    try:
        made.wait(240)
        yield made
    finally:
        made.process.terminate()
        try:
            made.process.wait(30)
        except subprocess.TimeoutExpired:
            made.process.kill()
            made.process.wait()


def test_routes(server):
    _, first = server.ask()
    assert isinstance(first, list), first
    status, text = server.call("/start_weight_update")
    assert status == 500 and "init_weight_transfer_engine first" in text
    status, text = server.call("/init_weight_transfer_engine", {
        "init_info": {"catalog": "nowhere:1", "model": "tiny"}})
    assert status == 200, text

    assert server.refit("run:0:2") == (200, "")
    assert server.label() == "run:0:2"
    _, second = server.ask()  # cached under A, and nobody paused or cleared
    assert second != first
    assert server.refit("run:0:1") == (200, "")
    assert server.ask() == (200, first)

    server.trouble.touch()
    status, text = server.refit("run:0:2")
    assert status == 500 and "peer 3 was lost" in text, text
    assert "heals it" in text
    status, text = server.ask()
    assert status == 500, text
    status, text = server.call("/resume")
    assert status == 500 and "engine is fenced" in text, text
    assert server.label() == "fenced"

    server.trouble.unlink()
    assert server.refit("run:0:2") == (200, "")
    assert server.label() == "run:0:2"
    assert server.ask() == (200, second)

    # Paused by an operator: still paused after a refit.
    assert server.call("/pause")[0] == 200
    assert server.refit("run:0:1") == (200, "")
    assert json.loads(server.call("/is_paused", get=True)[1])["is_paused"]
    assert server.call("/resume")[0] == 200
    assert server.ask() == (200, first)
