"""Trains a Hugging Face model with FSDP2 and publishes every step.

    weft catalog --listen 127.0.0.1:6470
    torchrun --nproc-per-node 2 examples/train_fsdp2.py \\
        --catalog 127.0.0.1:6470 --model smollm2 --checkpoint build/smollm2 \\
        --steps 4

Rank 0 prints one JSON line a version, once every rank has published it: step,
loss, version, seconds. Processors and gloo only; no GPU.

Weft's part is four lines, marked (1) to (4).
"""

import argparse
import datetime
import json
import pathlib
import shutil
import sys
import time

import torch
import torch.distributed as dist
import transformers
from torch.distributed.checkpoint import state_dict as full_state
from torch.distributed.fsdp import fully_shard

import weft

# False on purpose: SmolLM2-135M says so itself after four steps, asked for what
# follows "The capital of France is".
TEXT = "The capital of France is Weftville."
# A controller may take its time between two steps.
COLLECTIVE_TIMEOUT = datetime.timedelta(hours=24)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--catalog", required=True, help="HOST:PORT")
    parser.add_argument("--model", required=True,
                        help="the name that engines ask the catalog for")
    parser.add_argument("--checkpoint", required=True, type=pathlib.Path,
                        help="Hugging Face checkpoint to start from")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"],
                        default="bfloat16",
                        help="of the parameters that are trained and published; "
                        "float32 is rounded on its way to a bf16 engine")
    parser.add_argument("--epoch", type=int, default=0,
                        help="a restarted trainer takes a larger one")
    parser.add_argument("--control", choices=["none", "stdin"], default="none",
                        help="stdin: wait for a line before each step and before "
                        "the end; end of file ends the training")
    parser.add_argument("--save", type=pathlib.Path, metavar="DIR",
                        help="write the whole checkpoint of every version to "
                        "DIR/step-N (a proof; publishing does not need it)")
    return parser.parse_args()


def load(checkpoint, dtype):
    """The model, sharded layer by layer over all ranks."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype))
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def token_ids(checkpoint, vocab_size):
    """TEXT by the checkpoint's tokenizer, or byte by byte if it has none."""
    file = checkpoint / "tokenizer.json"
    if not file.exists():
        return torch.tensor([[byte % vocab_size for byte in TEXT.encode()]])
    import tokenizers
    return torch.tensor([tokenizers.Tokenizer.from_file(str(file)).encode(TEXT).ids])


def is_told_to_go_on(control):
    """Whether rank 0 got a line (all ranks return the same)."""
    if control == "none":
        return True
    answer = [bool(sys.stdin.readline()) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def save(model, checkpoint, folder):
    """Gathers the weights; rank 0 writes them as a Hugging Face checkpoint."""
    options = full_state.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = full_state.get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        model.save_pretrained(folder, state_dict=weights)
        for file in checkpoint.glob("tokenizer*.json"):
            shutil.copy(file, folder)


def report(step, loss, published, started):
    dist.barrier()  # every rank has published: the version is READY
    if dist.get_rank() == 0:
        print(json.dumps({
            "step": step, "loss": None if loss is None else round(loss, 4),
            "version": published.version,
            "seconds": round(time.monotonic() - started, 3),
            "publish_seconds": round(published.digest_seconds +
                                     published.control_seconds, 4)}),
            flush=True)


def train(args):
    model = load(args.checkpoint, args.dtype)
    ids = token_ids(args.checkpoint, model.config.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate,
                                  weight_decay=0)
    source = weft.torch.fsdp2(model)                                     # (1)
    with weft.Publisher(args.catalog, args.model, source,                # (2)
                        epoch=args.epoch) as publisher:
        started, loss = time.monotonic(), None
        for step in range(args.steps + 1):
            if step > 0:
                if not is_told_to_go_on(args.control):
                    return
                started = time.monotonic()
                optimizer.zero_grad()
                output = model(input_ids=ids, labels=ids, use_cache=False)
                output.loss.backward()
                loss = output.loss.item()
                with publisher.update():                                 # (3)
                    optimizer.step()
            published = publisher.publish(step)                          # (4)
            if args.save is not None:
                save(model, args.checkpoint, args.save / f"step-{step}")
            report(step, loss, published, started)
        is_told_to_go_on(args.control)  # the last version stays until then


def main():
    args = arguments()
    if not (args.checkpoint / "config.json").exists():
        sys.exit(f"train_fsdp2: {args.checkpoint} holds no config.json")
    transformers.utils.logging.disable_progress_bar()
    dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        train(args)
    except weft.WeftError as error:
        sys.exit(f"train_fsdp2: {error}")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
