"""Ranks as real processes, joined by gloo."""

import multiprocessing
import multiprocessing.connection
import pickle
import time
import traceback

import torch
import torch.distributed as dist

# The children are forked, so that each need not import transformers again; a
# forked child must not find a thread pool of its parent.
torch.set_num_threads(1)


def run_ranks(function, num_ranks, folder, *args, deadline_seconds=120):
    """[function(*args) of rank 0, ...], each in a process of one default
    group. AssertionError with the tracebacks if any rank fails."""
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_main, daemon=True,
                     args=(function, rank, num_ranks, folder, args))
        for rank in range(num_ranks)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + deadline_seconds
    running = {process.sentinel: process for process in processes}
    while running and time.monotonic() < deadline:
        for ended in multiprocessing.connection.wait(
                running, max(0.0, deadline - time.monotonic())):
            # The others may wait for one that failed for ever.
            if running.pop(ended).exitcode != 0:
                deadline = min(deadline, time.monotonic() + 2)
    for process in processes:
        if process.is_alive():
            process.kill()
    results, failures = [], []
    for rank in range(num_ranks):
        result = folder / f"rank{rank}.pickle"
        error = folder / f"rank{rank}.error"
        if error.exists():
            failures.append(f"rank {rank}:\n{error.read_text()}")
            error.unlink()
        elif not result.exists():
            failures.append(f"rank {rank}: no result")
        else:
            results.append(pickle.loads(result.read_bytes()))
            result.unlink()
    (folder / "store").unlink(missing_ok=True)
    assert not failures, "\n".join(failures)
    return results


def _main(function, rank, num_ranks, folder, args):
    # torch 2.11 renews an inherited thread pool without a lock at the first use
    # (caffe2::pthreadpool): two autograd threads that do so at once end the
    # process with "Invalid thread pool!". So it is renewed before they start.
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store",
                                rank=rank, world_size=num_ranks)
        result = function(*args)
        (folder / f"rank{rank}.pickle").write_bytes(pickle.dumps(result))
        dist.destroy_process_group()
    except BaseException:
        (folder / f"rank{rank}.error").write_text(traceback.format_exc())
        raise SystemExit(1) from None
