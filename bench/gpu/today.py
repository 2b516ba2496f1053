#!/usr/bin/env python3
"""What a user does today: one model from GPU 0 to GPU 1, by torch and NCCL.

    today.py [--weft FILE] [--json] [--runs 5]

Two processes. The sender holds the tensors of a Qwen3-8B checkpoint (399, bf16,
16.4 GB), the receiver an engine's fused parameters (qkv, gate_up), into which
every method writes. Timed at the receiver from a barrier until its GPU is idle;
median of the runs after one that is not counted. No loader's own Python is in
it; views and buffers are made once. All bytes are checked afterwards.

    memcpy            one copy of as many bytes: the bound
    ipc               a copy a tensor, from memory opened once (CUDA IPC)
    nccl              a broadcast a tensor, straight into the parameters
    nccl-temporary    the same into a new tensor, then copied: what a loader does
    nccl-buckets      packed into buckets of 1 GiB, two of them in turn
    fp8-nccl-buckets  the same, quantised by the sender in blocks of 128 x 128
                      (embeddings, norms and the head stay bf16)

--weft FILE: rows of `weft bench gpu --only refit --bytes 16400000000 --json`,
added. --device cpu --small is a rehearsal over gloo.
"""

import argparse
import json
import os
import pathlib
import queue
import socket
import statistics
import time
import traceback

# Multicast of the switch is another process's to use, too.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from today_model import (BLOCK, SMALL, Parameters, Shape, buckets_of, pieces_of,
                         quantise, scale_shape, view, wire_bytes)

PATIENCE = 300  # seconds; a bound


class Side:
    """What both processes have."""

    def __init__(self, args, rank):
        self.rank = rank
        self.is_cuda = args.device == "cuda"
        self.shape = SMALL if args.small else Shape()
        self.pieces = pieces_of(self.shape)
        if self.is_cuda:
            torch.cuda.set_device(rank)
        self.device = torch.device(args.device, rank) if self.is_cuda \
            else torch.device("cpu")
        dist.init_process_group(
            "nccl" if self.is_cuda else "gloo", rank=rank, world_size=2,
            init_method=f"tcp://127.0.0.1:{args.port}",
            **({"device_id": self.device} if self.is_cuda else {}))

    def wait(self):
        if self.is_cuda:
            torch.cuda.synchronize()

    def meet(self):
        self.wait()
        dist.barrier()
        self.wait()

    def measure(self, make_work, runs):
        """Seconds of each run until the GPU is idle, after one that is not
        counted; and the bytes that the method needs more."""
        before = 0
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        work = make_work()
        passed = []
        for _ in range(runs + 1):
            self.meet()
            start = time.perf_counter()
            work()
            self.wait()
            passed.append(time.perf_counter() - start)
            self.meet()
        more = torch.cuda.max_memory_allocated() - before if self.is_cuda else 0
        return passed[1:], more

    def buckets(self, fp8):
        """[(what goes over at once, [(piece, values, scales or None)])]: views
        of two buffers in turn, made once."""
        buckets = buckets_of(self.pieces, fp8, self.shape.bucket_bytes)
        largest = max(bucket.bytes for bucket in buckets)
        buffers = [torch.empty(largest, dtype=torch.uint8, device=self.device)
                   for _ in range(2)]
        made = []
        for number, bucket in enumerate(buckets):
            buffer = buffers[number % 2]
            views = []
            for piece, values, scales in bucket.parts:
                dtype = torch.bfloat16 if scales is None else torch.float8_e4m3fn
                views.append((
                    piece, view(buffer, values, dtype, piece.shape),
                    None if scales is None else view(
                        buffer, scales, torch.float32, scale_shape(piece))))
            made.append((buffer[:bucket.bytes], views))
        return made


def send_buckets(side, weights, fp8):
    buckets = side.buckets(fp8)

    def work():
        under_way = []
        for number, (buffer, parts) in enumerate(buckets):
            if number >= 2:
                under_way[number - 2].wait()
            for piece, values, scales in parts:
                if scales is None:
                    values.copy_(weights[piece.name])
                else:
                    quantise(weights[piece.name], values, scales)
            under_way.append(dist.broadcast(buffer, 0, async_op=True))
        for each in under_way[-2:]:
            each.wait()
    return work


def receive_buckets(side, parameters, fp8):
    buckets = side.buckets(fp8)
    targets = [[(values, parameters.rows(piece), scales,
                 None if scales is None else parameters.scale_rows(piece))
                for piece, values, scales in parts] for _, parts in buckets]

    def work():
        coming = dist.broadcast(buckets[0][0], 0, async_op=True)
        for number, parts in enumerate(targets):
            coming.wait()
            if number + 1 < len(buckets):
                # The other buffer was unpacked before, on the same stream.
                coming = dist.broadcast(buckets[number + 1][0], 0,
                                        async_op=True)
            for values, rows, scales, scale_rows in parts:
                rows.copy_(values)
                if scales is not None:
                    scale_rows.copy_(scales)
    return work


# By name: what makes the sender's part of a run, and the receiver's.
def sender_work(side, weights):
    def nccl():
        sources = [weights[piece.name] for piece in side.pieces]

        def work():
            for source in sources:
                dist.broadcast(source, 0)
        return work

    def nothing():
        return lambda: None

    return {"memcpy": nothing, "ipc": nothing, "nccl": nccl,
            "nccl-temporary": nccl,
            "nccl-buckets": lambda: send_buckets(side, weights, False),
            "fp8-nccl-buckets": lambda: send_buckets(side, weights, True)}


def receiver_work(side, parameters, opened):
    def memcpy():
        arena = torch.zeros_like(opened[""], device=side.device)
        return lambda: arena.copy_(opened[""], non_blocking=True)

    def ipc():
        pairs = [(parameters.rows(piece), opened[piece.name])
                 for piece in side.pieces]

        def work():
            for rows, source in pairs:
                rows.copy_(source, non_blocking=True)
        return work

    def nccl():
        targets = [parameters.rows(piece) for piece in side.pieces]

        def work():
            for rows in targets:
                dist.broadcast(rows, 0)
        return work

    def through_temporary():
        targets = [parameters.rows(piece) for piece in side.pieces]

        def work():
            for rows in targets:
                fresh = torch.empty_like(rows)
                dist.broadcast(fresh, 0)
                rows.copy_(fresh)
        return work

    return {"memcpy": memcpy, "ipc": ipc, "nccl": nccl,
            "nccl-temporary": through_temporary,
            "nccl-buckets": lambda: receive_buckets(side, parameters, False),
            "fp8-nccl-buckets": lambda: receive_buckets(side, parameters, True)}


METHODS = ("memcpy", "ipc", "nccl", "nccl-temporary", "nccl-buckets",
           "fp8-nccl-buckets")


def checksum(tensor):
    """Of its bits, in an order: sums of items times their place."""
    bits = tensor.contiguous().flatten().view(
        torch.int16 if tensor.dtype == torch.bfloat16 else torch.uint8)
    total = 0
    for begin in range(0, bits.numel(), 1 << 24):
        part = bits[begin:begin + (1 << 24)].long()
        place = torch.arange(begin, begin + part.numel(), device=bits.device)
        total += int((part * (place % 65521 + 1)).sum())
    return total


def dequantised_error(side, weights, parameters_of):
    """The largest relative error of a block, over its largest value."""
    worst = 0.0
    for piece in side.pieces:
        if not piece.quantised:
            continue
        values, scales = parameters_of(piece)
        tall, wide = scale_shape(piece)
        back = (values.float().view(tall, BLOCK, wide, BLOCK) *
                scales[:, None, :, None])
        truth = weights[piece.name].float().view(tall, BLOCK, wide, BLOCK)
        most = truth.abs().amax(dim=(1, 3))
        off = (back - truth).abs().amax(dim=(1, 3))
        worst = max(worst, float((off / most).max()))
    return worst


def send(args, to_receiver, to_sender):
    side = Side(args, 0)
    torch.manual_seed(args.seed)
    weights = {piece.name: torch.randn(piece.shape, dtype=torch.bfloat16,
                                       device=side.device)
               for piece in side.pieces}
    arena = torch.ones(wire_bytes(side.pieces, False) // 2,
                       dtype=torch.bfloat16, device=side.device)
    side.wait()
    to_receiver.put({"": arena, **weights})
    to_receiver.put({name: checksum(each) for name, each in weights.items()})
    work = sender_work(side, weights)
    for method in METHODS:
        _, more = side.measure(work[method], args.runs)
        to_receiver.put(more)
        if method.startswith("fp8"):
            # An engine's parameters of our own: what the receiver must hold.
            own = Parameters(side.pieces, side.device, True)
            for piece in side.pieces:
                if piece.quantised:
                    quantise(weights[piece.name], own.rows(piece),
                             own.scale_rows(piece))
                else:
                    own.rows(piece).copy_(weights[piece.name])
            error = dequantised_error(
                side, weights, lambda p: (own.rows(p), own.scale_rows(p)))
            assert error < 1 / 16, f"FP8 is off by {error} of a block's largest"
            to_receiver.put({p.name: checksum(own.rows(p))
                             for p in side.pieces})
    # Its memory is open there.
    assert to_sender.get(timeout=PATIENCE) == "done"


def check(side, parameters, sums):
    for piece in side.pieces:
        found = checksum(parameters.rows(piece))
        assert found == sums[piece.name], f"{piece.name} differs"


def receive(args, to_receiver, to_sender, results):
    side = Side(args, 1)
    opened = to_receiver.get(timeout=PATIENCE)
    sums = to_receiver.get(timeout=PATIENCE)
    parameters = None
    rows = []
    for method in METHODS:
        fp8 = method.startswith("fp8")
        if parameters is None or fp8:
            parameters = None  # freed before the others are made
            parameters = Parameters(side.pieces, side.device, fp8)
        for each in parameters.tensors.values():
            each.zero_()
        passed, more = side.measure(
            receiver_work(side, parameters, opened)[method], args.runs)
        sender_more = to_receiver.get(timeout=PATIENCE)
        if fp8:
            sums = to_receiver.get(timeout=PATIENCE)
        if method == "memcpy":
            more = max(0, more - opened[""].nbytes)  # what it copies into
        else:
            check(side, parameters, sums)
        rows.append({"method": method, "seconds": passed,
                     "wire_bytes": wire_bytes(side.pieces, fp8),
                     "model_bytes": wire_bytes(side.pieces, False),
                     "more_mib": [round(sender_more / 2**20),
                                  round(more / 2**20)]})
    results.put(rows)
    opened = None
    to_sender.put("done")


def run(function, errors, *args):
    try:
        function(*args)
    except BaseException:
        errors.put(f"{function.__name__}:\n{traceback.format_exc()}")
        raise SystemExit(1) from None


def measure(args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        args.port = free.getsockname()[1]
    context = mp.get_context("spawn")
    to_receiver, to_sender = context.Queue(), context.Queue()
    results, errors = context.Queue(), context.Queue()
    processes = [
        context.Process(target=run, args=(send, errors, args, to_receiver,
                                          to_sender)),
        context.Process(target=run, args=(receive, errors, args, to_receiver,
                                          to_sender, results))]
    for process in processes:
        process.start()
    rows = None
    deadline = time.monotonic() + PATIENCE
    try:
        while rows is None:
            if not errors.empty():
                raise SystemExit(f"today: {errors.get()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"today: nothing after {PATIENCE} s")
            try:
                rows = results.get(timeout=0.2)
            except queue.Empty:
                codes = [process.exitcode for process in processes]
                if any(codes) and errors.empty():
                    raise SystemExit(f"today: a process ended with {codes}")
        for process in processes:
            process.join(PATIENCE)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return rows


def to_lines(rows, machine):
    """As `weft bench --json` prints them; GB/s of bf16 model, and the bound of
    as many bytes as cross by the memcpy of this run."""
    memcpy = next(row for row in rows if row["method"] == "memcpy")
    memcpy_seconds = statistics.median(memcpy["seconds"])
    lines = []
    for row in rows:
        median = statistics.median(row["seconds"])
        # A share of memcpy's time, so that memcpy's own ratio rounds to 1.
        bound = row["wire_bytes"] / memcpy["wire_bytes"] * memcpy_seconds
        lines.append({
            "case": "today/" + row["method"], "unit": "GB/s",
            "value": row["model_bytes"] / median / 1e9,
            "bound": row["model_bytes"] / bound / 1e9,
            "ratio": bound / median, "runs": len(row["seconds"]),
            "spread": (max(row["seconds"]) - min(row["seconds"])) / median,
            "milliseconds": median * 1e3, "more_mib": row["more_mib"],
            "machine": machine})
    return lines


# Weft's cases that move the same tensors, and what they are here.
WEFT_CASES = {
    "gpu/refit-hf-to-vllm:tp=1": ("weft", False),
    "gpu/refit-verified-hf-to-vllm:tp=1": ("weft, digests, committed", False),
    "gpu/refit-hf:quant=fp8-block-to-vllm:tp=1,quant=fp8-block":
        ("weft FP8, quantised at publish", True),
    "gpu/refit-verified-hf:quant=fp8-block-to-vllm:tp=1,quant=fp8-block":
        ("weft FP8, digests, committed", True)}


def weft_lines(path, pieces):
    """GB/s there is of bytes written; here of the bf16 model."""
    lines = []
    for text in pathlib.Path(path).read_text().splitlines():
        if not text.startswith("{"):
            continue
        line = json.loads(text)
        if line["case"] not in WEFT_CASES:
            continue
        name, fp8 = WEFT_CASES[line["case"]]
        times = wire_bytes(pieces, False) / wire_bytes(pieces, fp8)
        lines.append(line | {
            "case": name, "value": line["value"] * times,
            "bound": line["bound"] * times, "more_mib": [0, 0],
            "milliseconds":
                wire_bytes(pieces, fp8) / line["value"] / 1e6})
    return lines


def print_table(lines):
    print(f"{'case':<34}{'ms':>8}{'GB/s of model':>15}{'bound':>8}{'ratio':>7}"
          f"{'spread':>8}   more MiB, sender / receiver")
    for line in lines:
        print(f"{line['case']:<34}{line['milliseconds']:>8.1f}"
              f"{line['value']:>15.1f}{line['bound']:>8.1f}"
              f"{line['ratio']:>7.2f}{line['spread']:>7.0%}"
              f"   {line['more_mib'][0]} / {line['more_mib'][1]}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weft", help="file of `weft bench gpu --json`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and torch.cuda.device_count() < 2:
        raise SystemExit("today: needs two GPUs")
    machine = torch.cuda.get_device_name(0) if args.device == "cuda" else "cpu"
    lines = to_lines(measure(args), machine)
    if args.weft:
        lines += weft_lines(args.weft, pieces_of(Shape()))
    if args.json:
        for line in lines:
            print(json.dumps(line))
    else:
        print_table(lines)


if __name__ == "__main__":
    main()
