"""vLLM's own server as a process, and its routes."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from ports import free_port

LONG = [(7 * i + 3) % 1000 for i in range(200)]  # more than a cache block
CALL_SECONDS = 240  # a bound, not an expectation


class Server:
    """Its engine core is a process of its own. `options`: more of the command
    line; `environment`: more than this process has."""

    def __init__(self, folder, log, options=(), environment=None,
                 max_model_len=256):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.model = str(folder)
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server",
             "--model", str(folder), "--skip-tokenizer-init", "--port",
             str(port), "--host", "127.0.0.1", "--enforce-eager", "--dtype",
             "bfloat16", "--max-model-len", str(max_model_len),
             "--max-num-seqs", "4", "--enable-scale-out",
             "--weight-transfer-config", '{"backend": "weft"}', *options],
            env=os.environ | {"VLLM_SERVER_DEV_MODE": "1",
                              "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
            | (environment or {}),
            stdout=log.open("w"), stderr=subprocess.STDOUT)

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(OSError):
                if self.call("/health", get=True)[0] == 200:
                    return self
            time.sleep(0.5)  # the server has no other sign of life
        raise AssertionError("no server: " + self.log.read_text()[-3000:])

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, path, body=None, get=False):
        """(status, body as text)."""
        try:
            with self.open(path, None if get else body or {}) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def open(self, path, body):
        return urllib.request.urlopen(urllib.request.Request(
            self.url + path, None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"}), timeout=CALL_SECONDS)

    def generation(self, prompt, tokens):
        return {"model": self.model, "token_ids": list(prompt),
                "sampling_params": {
                    "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
                    "logprobs": 1, "detokenize": False}}

    def ask(self, prompt=LONG, tokens=8):
        """(status, token ids) of a greedy answer."""
        status, text = self.call("/inference/v1/generate",
                                 self.generation(prompt, tokens))
        if status != 200:
            return status, text
        return status, json.loads(text)["choices"][0]["token_ids"]

    def init(self, **info):
        return self.call("/init_weight_transfer_engine", {"init_info": info})

    def refit(self, version, label=None, **info):
        """The three calls of one session; the first that fails ends it."""
        for path, body in [
                ("/start_weight_update", {}),
                ("/update_weights",
                 {"update_info": {"version": version} | info}),
                ("/finish_weight_update",
                 {"weight_version": label} if label else {})]:
            status, text = self.call(path, body)
            if status != 200:
                return status, text
        return 200, ""

    def label(self):
        return json.loads(self.call("/weight_info", get=True)[1])[
            "weight_version"]

    def is_paused(self):
        return json.loads(self.call("/is_paused", get=True)[1])["is_paused"]
