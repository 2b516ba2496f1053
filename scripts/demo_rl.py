#!/usr/bin/env python3
"""A training job and a running vLLM server, joined by Weft, on this machine.

SmolLM2-135M is trained with FSDP2 by two processes (examples/train_fsdp2.py) and
served by vLLM's own server. After each optimiser step the server is refitted
over its own routes while it runs. At the end its answers, tokens and
log-probabilities, are compared with those of fresh engines that loaded the
checkpoints which the trainer gathered and saved for this proof only.

Run by `make demo-rl`, in .deps/venv-ml. Exit code 0 only if all of it held.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil

import weft

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "demo-rl"
PROMPT = "The capital of France is"
MODEL = "smollm2"
NEW_TOKENS = 8
START_SECONDS = 300
STAGING_BYTES = 64 << 20  # the default of weft.Receiver
ENGINE_ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
                      "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


class Failure(Exception):
    """One sentence for the person at the terminal."""


def say(text):
    print(text, flush=True)


def tokens_of(checkpoint, text):
    """Ids and a way back to text; bytes stand in where there is no tokenizer."""
    file = checkpoint / "tokenizer.json"
    if not file.exists():
        return list(text.encode()), lambda ids: str(ids)
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    return tokenizer.encode(text).ids, tokenizer.decode


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process):
    """Waits for a process that was asked to end; kills one that does not."""
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class PeakMemory:
    """The most memory that a process and its children used beyond what they
    had when this was made."""

    def __init__(self, process):
        root = psutil.Process(process.pid)
        self._before = {}
        for each in [root, *root.children(recursive=True)]:
            # 5: the peak starts again from what is resident now (proc(5)).
            pathlib.Path(f"/proc/{each.pid}/clear_refs").write_text("5")
            self._before[each.pid] = status_bytes(each.pid, "VmRSS")

    def extra_bytes(self):
        return sum(max(0, status_bytes(pid, "VmHWM") - before)
                   for pid, before in self._before.items())


def status_bytes(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failure(f"process {pid} has no {field}")


class Server:
    """vLLM's own server, with one flag more."""

    def __init__(self, checkpoint):
        self.port = free_port()
        self.log = WORK / f"vllm-{self.port}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server",
             "--model", str(checkpoint), "--served-model-name", MODEL,
             "--skip-tokenizer-init", "--host", "127.0.0.1", "--port",
             str(self.port), "--dtype", "bfloat16", "--max-model-len", "256",
             "--max-num-seqs", "4", "--enforce-eager", "--enable-scale-out",
             "--weight-transfer-config", '{"backend": "weft"}'],
            env=os.environ | ENGINE_ENVIRONMENT, stdout=self.log.open("w"),
            stderr=subprocess.STDOUT)

    def wait(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, Failure):
                self.call("/health", get=True)
                return
            time.sleep(0.5)  # the server has no other sign of life
        raise Failure(f"the vLLM server did not start; see {self.log}")

    def call(self, path, body=None, get=False):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if get else json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.read().decode()
        except urllib.error.HTTPError as error:
            raise Failure(f"{path} answered {error.code}: "
                          f"{error.read().decode()}") from error

    def answer(self, prompt_ids):
        text = self.call("/inference/v1/generate", {
            "model": MODEL, "token_ids": prompt_ids, "sampling_params": {
                "temperature": 0, "max_tokens": NEW_TOKENS, "ignore_eos": True,
                "logprobs": 1, "detokenize": False}})
        choice = json.loads(text)["choices"][0]
        return choice["token_ids"], logprobs_of(choice)

    def refit(self, version):
        """Over the standard routes; returns the seconds that serving paused."""
        started = time.monotonic()
        self.call("/pause?mode=keep")
        self.call("/start_weight_update")
        self.call("/update_weights", {"update_info": {"version": version}})
        self.call("/finish_weight_update", {"weight_version": version})
        self.call("/resume")
        return time.monotonic() - started

    def close(self):
        self.process.terminate()
        end(self.process)


def logprobs_of(choice):
    """Log-probabilities of the chosen tokens, whichever shape they come in."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [round(entry["logprob"], 6) for entry in content]


class Trainer:
    """Two FSDP2 ranks that take one step a line."""

    def __init__(self, catalog, checkpoint, steps):
        self.log = WORK / "trainer.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
             "--master-port", str(free_port()), str(ROOT / "examples/train_fsdp2.py"),
             "--catalog", catalog, "--model", MODEL, "--checkpoint", str(checkpoint),
             "--steps", str(steps), "--control", "stdin", "--save",
             str(WORK / "saved")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log.open("w"), text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"})

    def event(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Failure(f"the trainer ended; see {self.log}")

    def step(self):
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.event()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        end(self.process)


def fresh_answer(checkpoint, prompt_ids):
    """What an engine says that loaded the checkpoint itself: a server of its
    own process, so that nothing is shared."""
    server = Server(checkpoint)
    try:
        server.wait()
        return server.answer(prompt_ids)
    finally:
        server.close()


def say_memory(extra, checkpoint):
    """`extra`: bytes of (server, trainer), a refit."""
    server, trainer = map(max, zip(*extra, strict=True))
    model = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    say(f"memory beside the weights, at most, in any refit: {server / 1e6:.1f} MB "
        f"in the server, {trainer / 1e6:.1f} MB in the trainer (staging budget "
        f"{STAGING_BYTES / 1e6:.0f} MB, model {model / 1e6:.0f} MB)")
    if max(server, trainer) > STAGING_BYTES:
        raise Failure("a refit took more memory than the staging budget")


def run(args):
    prompt_ids, decode = tokens_of(args.checkpoint, PROMPT)
    rows, extra = [], []
    with weft.CatalogServer() as catalog, contextlib.ExitStack() as stack:
        say(f"catalog at {catalog.address}; starting the vLLM server and two "
            "FSDP2 trainer ranks (a minute)")
        server = Server(args.checkpoint)
        stack.callback(server.close)
        trainer = Trainer(catalog.address, args.checkpoint, args.steps)
        stack.callback(trainer.close)
        first = trainer.event()
        server.wait()
        server.call("/init_weight_transfer_engine", {"init_info": {
            "catalog": catalog.address, "model": MODEL}})
        ids, logprobs = server.answer(prompt_ids)
        say(f'before training: "{PROMPT}" ->"{decode(ids)}"')
        rows.append((first, 0.0, ids, logprobs))
        for _ in range(args.steps):
            event = trainer.step()
            memory = PeakMemory(server.process), PeakMemory(trainer.process)
            paused = server.refit(event["version"])
            extra.append([each.extra_bytes() for each in memory])
            ids, logprobs = server.answer(prompt_ids)
            say(f"step {event['step']}: loss {event['loss']:.3f}, "
                f"{event['version']} served after a pause of {paused * 1e3:.0f} "
                f'ms -> "{decode(ids)}"')
            rows.append((event, paused, ids, logprobs))
        say_memory(extra, args.checkpoint)
        say(f"catalog: {weft.Catalog(catalog.address).versions(MODEL)[-1]}")
    say("the same prompt from fresh engines that load the saved checkpoints")
    wrong = 0
    checked = range(args.steps + 1) if args.prove == "all" else [args.steps]
    for step in checked:
        _, _, ids, logprobs = rows[step]
        expected = fresh_answer(WORK / "saved" / f"step-{step}", prompt_ids)
        same = (ids, logprobs) == expected and len(logprobs) == NEW_TOKENS
        wrong += not same
        say(f"step {step}: {len(ids)} tokens and log-probabilities "
            + ("are the same" if same else f"DIFFER: served {ids} {logprobs}, "
               f"fresh {expected}"))
    if rows[0][2] == rows[-1][2] and rows[0][3] == rows[-1][3]:
        raise Failure("training changed nothing that the engine says")
    if wrong:
        raise Failure(f"{wrong} answers differ from those of fresh engines")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=pathlib.Path,
                        default=ROOT / "build" / "smollm2")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prove", choices=["last", "all"], default="last",
                        help="which steps are compared with a fresh engine")
    parser.add_argument("--json", action="store_true",
                        help="a line of JSON a step at the end")
    args = parser.parse_args()
    if not (args.checkpoint / "config.json").exists():
        sys.exit(f"demo-rl: {args.checkpoint} holds no config.json; run make demo")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    try:
        rows = run(args)
    except (Failure, weft.WeftError) as failure:
        sys.exit(f"demo-rl: {failure}")
    if args.json:
        for event, paused, ids, logprobs in rows:
            say(json.dumps(event | {"paused_seconds": paused, "token_ids": ids,
                                    "logprobs": logprobs}))
    say("demo-rl: a live trainer and a live engine, every step refitted in place "
        "and proven")


if __name__ == "__main__":
    main()
