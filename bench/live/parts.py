"""What the processes of the benchmark have in common: models, and a line of
JSON a command and a reply."""

import json
import subprocess
import sys

# A Qwen3 of some 2 GB: shapes of the real ones, fewer layers, random weights.
QWEN3_2GB = dict(
    hidden_size=2048, num_hidden_layers=17, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, intermediate_size=6144,
    vocab_size=32768, max_position_embeddings=1024, tie_word_embeddings=False)


def make_qwen3(folder):
    """Writes a checkpoint with random weights, once."""
    import torch
    import transformers
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(1)
    config = transformers.Qwen3Config(**QWEN3_2GB)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16)
    block = torch.randn(1 << 24, dtype=torch.bfloat16) * 0.02
    weights = {}
    for name, value in model.state_dict().items():
        repeats = -(-value.numel() // block.numel())
        weights[name] = block.repeat(repeats)[:value.numel()].reshape(value.shape)
    model.save_pretrained(folder, state_dict=weights)
    return folder


class Child:
    """A process of the benchmark: `call` sends a command and waits for its
    reply, `send` and `reply` do one of the two."""

    def __init__(self, script, arguments, log, environment):
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log.open("w"), text=True, env=environment)

    def send(self, command, **arguments):
        self.process.stdin.write(json.dumps([command, arguments]) + "\n")
        self.process.stdin.flush()

    def reply(self):
        for line in self.process.stdout:
            if line.startswith('{"reply"'):
                return json.loads(line)["reply"]
        raise RuntimeError(f"a process ended: {self.log.read_text()[-2000:]}")

    def call(self, command, **arguments):
        self.send(command, **arguments)
        return self.reply()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(commands):
    """Answers commands of the parent, methods of `commands` by name, until it
    closes the pipe."""
    print(json.dumps({"reply": None}), flush=True)  # ready
    for line in sys.stdin:
        command, arguments = json.loads(line)
        reply = getattr(commands, command)(**arguments)
        print(json.dumps({"reply": reply}), flush=True)


def hand_over_group(address, rank, seconds=600):
    """A gloo group of the first trainer rank (0) and the engine (1), beside
    whatever default group either has."""
    import datetime

    import torch.distributed as dist
    host, _, port = address.rpartition(":")
    limit = datetime.timedelta(seconds=seconds)
    store = dist.TCPStore(host, int(port), 2, is_master=rank == 0, timeout=limit)
    return dist.ProcessGroupGloo(store, rank, 2, limit)
