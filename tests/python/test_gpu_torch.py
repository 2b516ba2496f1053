"""Live torch modules on GPUs: FSDP2 ranks train, another process receives.

Needs torch with CUDA, the wheel `weft`, and two GPUs for FSDP2; skipped where
they are not. All bytes are compared with what torch itself gathers.
"""

import multiprocessing
import traceback

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed here")
weft = pytest.importorskip("weft", reason="the wheel is not installed here")
import weft.torch  # noqa: E402

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(GPUS == 0, reason="no CUDA device")
STEPS = 3
PATIENCE = 60
LAYERS, WIDTH, ROWS = 4, 1024, 3000  # rows that two ranks cut unevenly


def build(device):
    torch.manual_seed(11)
    blocks = [torch.nn.Sequential(torch.nn.Linear(WIDTH, ROWS),
                                  torch.nn.SiLU(),
                                  torch.nn.Linear(ROWS, WIDTH),
                                  torch.nn.LayerNorm(WIDTH))
              for _ in range(LAYERS)]
    return torch.nn.Sequential(*blocks).to(device, torch.bfloat16)


def step_once(model, optimizer, device):
    """All parameters change."""
    batch = torch.randn(64, WIDTH, device=device, dtype=torch.bfloat16)
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.125)


def full_copy(model):
    return {name: getattr(p, "full_tensor", lambda p=p: p)().detach().cpu()
            for name, p in model.named_parameters()}


def train(rank, num_ranks, folder, catalog, meet):
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    model = build(device)
    if num_ranks > 1:
        import torch.distributed as dist
        from torch.distributed.fsdp import fully_shard
        dist.init_process_group("nccl", init_method=f"file://{folder}/store",
                                rank=rank, world_size=num_ranks,
                                device_id=device)
        for block in model:
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    source = weft.torch.fsdp2(model)
    with weft.Publisher(catalog, "m", source) as publisher:
        for step in range(STEPS):
            with publisher.update(PATIENCE):
                step_once(model, optimizer, device)
            # The stream is still busy: publish() waits for it.
            publisher.publish(step, PATIENCE)
            copy = full_copy(model)
            if rank == 0:
                torch.save(copy, f"{folder}/{step}.pt")
            meet.wait(PATIENCE)
            meet.wait(PATIENCE)
    if num_ranks > 1:
        dist.destroy_process_group()


def assert_holds(model, folder, step):
    torch.cuda.synchronize()
    for name, expected in torch.load(f"{folder}/{step}.pt").items():
        found = model.get_parameter(name).detach().cpu()
        assert torch.equal(found.view(torch.int16),
                           expected.view(torch.int16)), (name, step)


def receive(folder, catalog, meet, mode):
    device = torch.device("cuda", GPUS - 1)
    torch.cuda.set_device(device)
    model = build(device)
    events = []
    more = {"mode": mode, "pause": lambda: events.append("pause"),
            "resume": lambda: events.append("resume")} \
        if mode == "shadow" else {}
    with weft.Receiver(catalog, "m", weft.torch.fsdp2(model), **more) as engine:
        for step in range(STEPS):
            meet.wait(PATIENCE)
            if mode == "in-place":
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(float("nan"))
            report = engine.refit(f"run:0:{step}", PATIENCE)
            print(report)
            assert_holds(model, folder, step)
            if mode == "shadow":
                assert events == ["pause", "resume"] * (step + 1)
            meet.wait(PATIENCE)
        if mode == "shadow":
            back = engine.rollback()
            print(back)
            assert back.version == f"run:0:{STEPS - 2}"
            assert_holds(model, folder, STEPS - 2)


def run(function, errors, name, *args):
    try:
        function(*args)
    except BaseException:
        errors.put(f"{name}:\n{traceback.format_exc()}")
        raise SystemExit(1) from None


@pytest.mark.parametrize("mode", ["in-place", "shadow"])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_optimiser_step_reaches_the_engine(tmp_path, num_ranks, mode):
    if num_ranks > GPUS:
        pytest.skip(f"{num_ranks} ranks need as many GPUs, there are {GPUS}")
    context = multiprocessing.get_context("spawn")
    meet = context.Barrier(num_ranks + 1)
    errors = context.Queue()
    with weft.CatalogServer() as server:
        jobs = [(train, errors, f"rank {rank}", rank, num_ranks, str(tmp_path),
                 server.address, meet) for rank in range(num_ranks)]
        jobs.append((receive, errors, "engine", str(tmp_path), server.address,
                     meet, mode))
        processes = [context.Process(target=run, args=job) for job in jobs]
        for process in processes:
            process.start()
        for process in processes:
            process.join(3 * PATIENCE)
        alive = [process for process in processes if process.is_alive()]
        for process in alive:
            process.kill()
        said = []
        while not errors.empty():
            said.append(errors.get())
        assert not said and not alive, "\n".join(said)
        assert all(process.exitcode == 0 for process in processes)
