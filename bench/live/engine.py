"""The engine of the benchmark, a vLLM in this process; commands come from
live_refit.py."""

import argparse
import os
import time

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0",
               "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
               "VLLM_LOGGING_LEVEL": "ERROR",
               "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

import parts  # noqa: E402
import torch  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

import weft  # noqa: E402


class Engine:
    def __init__(self, args):
        options = {} if args.plain else {
            "weight_transfer_config": {"backend": "weft"}}
        self.llm = LLM(args.checkpoint, skip_tokenizer_init=True,
                       enforce_eager=True, dtype="bfloat16", max_model_len=256,
                       max_num_seqs=4, disable_log_stats=True, **options)
        self.hand_over_address = args.hand_over
        self.hand_over = None
        self.catalog = args.catalog
        self.reports = []
        if not args.plain:
            self._attach()

    def _attach(self):
        from weft.vllm import engine as weft_engine
        reports = self.reports

        class Measured(weft.Receiver):
            """Keeps its reports for the benchmark."""

            def refit(self, *args, **kwargs):
                reports.append(super().refit(*args, **kwargs))
                return reports[-1]

        weft_engine.receiver_factory = lambda **arguments: Measured(
            threads=os.cpu_count(), **arguments)
        self.llm.init_weight_transfer_engine({"init_info": {
            "catalog": self.catalog, "model": "bench", "timeout": 300}})

    def refit(self, version):
        """Seconds of the three calls, and what the receiver reports."""
        started = time.perf_counter()
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": {"version": version}})
        self.llm.finish_weight_update(weight_version=version)
        seconds = time.perf_counter() - started
        report = self.reports[-1]
        return {"seconds": seconds, "receiver_seconds": report.seconds,
                "transfer_seconds": report.transfer_seconds,
                "verify_seconds": report.verify_seconds,
                "control_seconds": report.control_seconds,
                "bytes": report.bytes, "wire_bytes": report.wire_bytes,
                "staging_peak_bytes": report.staging_peak_bytes,
                "planned": report.planned,
                "transport": sorted({p["transport"] for p in report.peers})}

    def bound(self, version):
        """What the link of such a refit reaches with plain reads."""
        with weft.Receiver(self.catalog, "bench", self._live_target(),
                           measure_bound=True) as receiver:
            report = receiver.refit(version, timeout=300)
        return {"bytes_per_second": report.bound_bytes_per_second,
                "name": report.bound}

    def reload(self, folder):
        self.llm.collective_rpc("reload_weights",
                                kwargs={"weights_path": folder})
        self.llm.reset_prefix_cache()

    def receive(self, names):
        """Loads what trainer rank 0 broadcasts, tensor by tensor."""
        if self.hand_over is None:
            self.hand_over = parts.hand_over_group(self.hand_over_address, 1)

        def arriving():
            for name, shape in names:
                tensor = torch.empty(shape, dtype=torch.bfloat16)
                self.hand_over.broadcast(tensor, 0).wait()
                yield name, tensor

        with torch.no_grad():
            self._worker().get_model().load_weights(arriving())
        self.llm.reset_prefix_cache()

    def _worker(self):
        core = self.llm.llm_engine.engine_core.engine_core
        return core.model_executor.driver_worker.worker

    def _live_target(self):
        from weft.vllm import target
        worker = self._worker()
        return target(worker.get_model(), worker.vllm_config)

    def answer(self):
        sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True,
                                  detokenize=False)
        (output,) = self.llm.generate([{"prompt_token_ids": [5, 17, 300, 7]}],
                                      sampling, use_tqdm=False)
        return list(output.outputs[0].token_ids)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--hand-over", required=True)
    parser.add_argument("--plain", action="store_true",
                        help="a vLLM without Weft")
    parts.serve(Engine(parser.parse_args()))


if __name__ == "__main__":
    main()
