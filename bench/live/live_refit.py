#!/usr/bin/env python3
"""Seconds from "the optimiser has stepped" to "the engine serves it", three ways.

    weft       publish, then a refit over vLLM's own calls: in place
    reload     gather to rank 0, save_pretrained, vLLM's reload_weights
    broadcast  gather tensor by tensor, gloo broadcast to the engine, load_weights

The trainer is FSDP2 (gloo, processes), the engine a vLLM on the CPU; all three
ways run on the same machine, one after the other, medians of several runs. The
bound is what the transport of the refit reaches in the same run with plain
reads of 1 MiB.

    .deps/venv-ml/bin/python bench/live/live_refit.py --model smollm2
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import sys
import time

import parts

import weft

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "bench-live"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bench:
    def __init__(self, checkpoint, num_ranks, catalog):
        self.checkpoint, self.catalog = checkpoint, catalog
        self.hand_over = f"127.0.0.1:{free_port()}"
        self.step = 0
        master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                  "WORLD_SIZE": str(num_ranks), "OMP_NUM_THREADS": "1"}
        self.trainers = [
            parts.Child(HERE / "trainer.py", self.arguments(),
                        WORK / f"trainer{rank}.log",
                        os.environ | master | {"RANK": str(rank)})
            for rank in range(num_ranks)]
        for trainer in self.trainers:
            trainer.reply()

    def arguments(self):
        return ["--checkpoint", self.checkpoint, "--catalog", self.catalog,
                "--hand-over", self.hand_over]

    def engine(self, *more):
        child = parts.Child(
            HERE / "engine.py", [*self.arguments(), *more], WORK / "engine.log",
            os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())})
        child.reply()
        return child

    def all_trainers(self, command, **arguments):
        for trainer in self.trainers:
            trainer.send(command, **arguments)
        return [trainer.reply() for trainer in self.trainers]

    def weft(self, engine):
        self.all_trainers("change")
        self.step += 1
        started = time.perf_counter()
        publish = max(self.all_trainers("publish", step=self.step))
        refit = engine.call("refit", version=f"run:0:{self.step}")
        return refit | {"publish_seconds": publish,
                        "whole_seconds": time.perf_counter() - started}

    def reload(self, engine):
        self.all_trainers("change")
        folder = WORK / "saved"
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        self.all_trainers("save", folder=str(folder))
        engine.call("reload", folder=str(folder))
        return time.perf_counter() - started

    def broadcast(self, engine, names):
        self.all_trainers("change")
        started = time.perf_counter()
        engine.send("receive", names=names)
        self.all_trainers("broadcast")
        engine.reply()
        return time.perf_counter() - started

    def close(self):
        for trainer in self.trainers:
            trainer.process.stdin.close()
        for trainer in self.trainers:
            trainer.process.wait(60)


def measure(bench, runs):
    engine = bench.engine()
    before = engine.call("answer")
    refits = [bench.weft(engine) for _ in range(runs + 1)][1:]  # one to plan
    names = bench.trainers[0].call("names")
    broadcasts = [bench.broadcast(engine, names) for _ in range(runs + 1)][1:]
    bench.step += 1
    bench.all_trainers("publish", step=bench.step)
    bound = engine.call("bound", version=f"run:0:{bench.step}")
    if engine.call("answer") == before:
        raise RuntimeError("new weights changed nothing that the engine says")
    engine.close()
    plain = bench.engine("--plain")
    reloads = [bench.reload(plain) for _ in range(runs)]
    plain.close()
    return refits, broadcasts, reloads, bound["bytes_per_second"]


def row(case, unit, values, bound=None, ratio=None):
    """The median of several runs; `ratio`: of bound and value, the better the
    larger."""
    value = statistics.median(values)
    return {"case": case, "value": value, "unit": unit, "bound": bound,
            "ratio": ratio(value) if ratio else None, "runs": len(values),
            "spread": (max(values) - min(values)) / value if value else 0.0}


def rows_of(name, refits, broadcasts, reloads, link):
    """`link`: bytes per second of plain reads by the same transport."""
    def values(key):
        return [refit[key] for refit in refits]

    num_bytes = refits[0]["wire_bytes"]
    ideal = num_bytes / link
    whole = statistics.median(values("whole_seconds"))

    def case(what, *args):
        return row(f"{name}: {what}", *args)

    return [
        case("bytes moved, one copy", "MB", [refits[0]["bytes"] / 1e6]),
        case(f"transfer by {', '.join(refits[0]['transport'])}, digests beside "
             "it, against plain reads", "GB/s",
             [num_bytes / s / 1e9 for s in values("transfer_seconds")],
             link / 1e9, lambda rate: rate * 1e9 / link),
        case("refit, the three calls, against plain reads", "s",
             values("seconds"), ideal, lambda s: ideal / s),
        case("of which Python and vLLM", "ms",
             [(r["seconds"] - r["receiver_seconds"]) * 1e3 for r in refits],
             5.0, lambda ms: 5.0 / ms),
        case("publish, its digests", "s", values("publish_seconds")),
        case("weft: publish + refit", "s", values("whole_seconds")),
        case("gather + gloo broadcast + load_weights, against weft", "s",
             broadcasts, whole, lambda s: s / whole),
        case("gather + save_pretrained + reload_weights, against weft", "s",
             reloads, whole, lambda s: s / whole),
        case("peak staging of the receiver", "MB",
             [b / 1e6 for b in values("staging_peak_bytes")]),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["smollm2", "qwen3"],
                        default="smollm2", help="qwen3: 2 GB of random weights")
    parser.add_argument("--ranks", type=int, default=2, help="trainer processes")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    checkpoint = (parts.make_qwen3(WORK / "qwen3") if args.model == "qwen3"
                  else ROOT / "build" / "smollm2")
    if not (checkpoint / "config.json").exists():
        sys.exit(f"live_refit: {checkpoint} holds no config.json; run make demo")
    with weft.CatalogServer() as catalog:
        bench = Bench(checkpoint, args.ranks, catalog.address)
        rows = rows_of(args.model, *measure(bench, args.runs))
        bench.close()
    for each in rows:
        print(json.dumps(each) if args.json else
              f"{each['case']:72} {each['value']:10.4g} {each['unit']:5}"
              + (f" {each['bound']:10.4g} {each['ratio']:7.2f}"
                 if each["ratio"] is not None else ""))


if __name__ == "__main__":
    main()
