"""The package weft, as a user without torch has it."""

import array
import asyncio
import ctypes
import gc
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

weft = pytest.importorskip("weft")
numpy = pytest.importorskip("numpy")

PATIENCE = 240
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 130,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}


@pytest.fixture
def catalog():
    with weft.CatalogServer("127.0.0.1:0") as server:
        yield server.address


def weights(step):
    random = numpy.random.default_rng(step)
    return {"a": random.random((300, 70)).astype(numpy.float32),
            "b": random.random(5).astype(numpy.float32),
            "empty": numpy.zeros((0, 3), numpy.float32)}


def poisoned():
    return {name: numpy.full_like(value, -7) for name, value in weights(0).items()}


@pytest.mark.parametrize("transports", ["auto", "shm", "ucx"])
def test_versions_arrive(catalog, transports):
    if transports == "ucx" and weft.ucx is None:
        pytest.skip("no UCX on this machine")
    live = weights(0)
    mine = poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(live),
                        transports=transports) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine),
                          transports=transports) as receiver:
        assert receiver.fenced
        for step in range(3):
            with publisher.update():
                for name, value in weights(step).items():
                    live[name][...] = value
            published = publisher.publish(step)
            assert published.state == "READY"
            for value in mine.values():
                value[...] = -7
            report = receiver.refit("latest", timeout=PATIENCE)
            assert report.version == published.version == f"run:0:{step}"
            assert report.planned == (step == 0)
            assert not receiver.fenced and receiver.committed == report.version
            assert f"{step}" in str(report)
            for name, value in weights(step).items():
                assert numpy.array_equal(mine[name], value), name
        assert "run lengths" in receiver.explain() or receiver.explain()
    assert weft.Catalog(catalog).versions("m")[0]["state"] == "GONE"


def fill(placement, step):
    """Bytes of each stored tensor of a rank, by the logical values: BF16
    elements numbered by a hash of (tensor, index, step)."""
    result = {}
    for stored in placement.stored:
        memory = numpy.zeros(int(numpy.prod(stored.shape)), numpy.uint16)
        for fragment in stored.fragments:
            name = placement.tensors[fragment.tensor].name
            shape = placement.tensors[fragment.tensor].shape
            for index in numpy.ndindex(*[e - b for b, e in fragment.box]):
                offset, number = fragment.offset, 0
                for d, n in enumerate(index):
                    number = number * shape[d] + fragment.box[d][0] + n
                    for extent, stride in fragment.modes[d]:
                        offset += n % extent * stride
                        n //= extent
                memory[offset] = (number * 31 + len(name) * 7 + step * 101) % 32768
        result[stored.name] = memory
    return result


def as_bytes(values):
    return {name: bytearray(value.tobytes()) for name, value in values.items()}


def publish_rank(catalog, rank, pipe):
    placement = weft.recipe_placement(CONFIG, "megatron:tp=2,vocab_divisor=8", rank)
    source = weft.tensors(as_bytes(fill(placement, 0)), layout=placement)
    with weft.Publisher(catalog, "m", source) as publisher:
        publisher.publish(0)
        pipe.send("published")
        pipe.poll(PATIENCE)  # until the test closes its end


@pytest.fixture
def trainers(catalog):
    """Two publishing processes."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        mine, its = spawn.Pipe()
        pipes.append(mine)
        processes.append(spawn.Process(target=publish_rank,
                                       args=(catalog, rank, its)))
        processes[-1].start()
        its.close()
    for pipe in pipes:
        assert pipe.poll(PATIENCE) and pipe.recv() == "published"
    yield processes
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(PATIENCE)
        assert not process.is_alive()


def test_resharded_between_processes(catalog, trainers):
    for rank in range(4):
        target = weft.recipe_placement(CONFIG, "vllm:tp=4", rank)
        mine = {s.name: bytearray(b"\xa5" * (2 * int(numpy.prod(s.shape))))
                for s in target.stored}
        with weft.Receiver(catalog, "m", weft.tensors(mine, layout=target)) as receiver:
            report = receiver.refit("run:0:0", timeout=PATIENCE)
        assert len(report.peers) == 2 and report.tiles_checked > 0
        for name, value in as_bytes(fill(target, 0)).items():
            assert mine[name] == value, (rank, name)


def test_a_killed_trainer_is_a_peer_lost(catalog, trainers):
    target = weft.recipe_placement(CONFIG, "vllm:tp=1", 0)
    mine = {s.name: bytearray(2 * int(numpy.prod(s.shape))) for s in target.stored}
    with weft.Receiver(catalog, "m", weft.tensors(mine, layout=target)) as receiver:
        receiver.refit(timeout=PATIENCE)
        os.kill(trainers[1].pid, signal.SIGKILL)
        trainers[1].join(PATIENCE)
        with pytest.raises(weft.WeftError) as failure:
            receiver.refit("run:0:0", timeout=5)
        assert isinstance(failure.value, (weft.PeerLost, weft.Refused,
                                          weft.DeadlineExceeded))


def test_plans_and_their_faults():
    sources = [weft.recipe_placement(CONFIG, "fsdp:shard=3", r) for r in range(3)]
    target = weft.recipe_placement(CONFIG, "vllm:tp=2", 1)
    text = weft.explain(sources, target)
    assert "lossy" in text or "moves" in text
    assert weft.plan(sources, target).as_dict()
    with pytest.raises(weft.CoverageError) as failure:
        weft.plan(sources[:2], target)
    assert "no source holds" in str(failure.value)
    with pytest.raises(weft.BadInput, match="tp"):
        weft.recipe_placement(CONFIG, "vllm:tp=3", 0)
    with pytest.raises(ValueError, match="unknown dtype"):
        weft.plan(sources, weft.Placement("x", 0, 1, [
            weft.LogicalTensor("t", "BF17", (1,))]))


def test_what_is_refused(catalog):
    live = weights(0)
    with pytest.raises(ValueError, match='"a" is missing'):
        weft.tensors({"b": live["b"]}, layout=weft.tensors(live).placement)
    with pytest.raises(ValueError, match="not contiguous|contiguous"):
        weft.Publisher(catalog, "m", weft.tensors({"t": live["a"].T}))
    with pytest.raises(weft.PeerLost, match="127.0.0.1:1"):
        weft.Publisher("127.0.0.1:1", "m", weft.tensors(live), timeout=2)
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher:
        publisher.publish(3)
        with pytest.raises(weft.Refused, match="step 3 is not above"):
            publisher.publish(3)
        with pytest.raises(weft.AlreadyPublished, match="rank 0"):
            weft.Publisher(catalog, "m", weft.tensors(live))
        with pytest.raises(weft.BadInput, match="unknown transport"):
            weft.Receiver(catalog, "m", weft.tensors(poisoned()), transports="ib")
        other = {"a": numpy.zeros((300, 71), numpy.float32)}
        with weft.Receiver(catalog, "m", weft.tensors(other)) as receiver:
            with pytest.raises(weft.BadInput, match='"a" has shape'):
                receiver.refit(timeout=PATIENCE)
        missing = {"c": numpy.zeros(4, numpy.float32)}
        with weft.Receiver(catalog, "m", weft.tensors(missing)) as receiver:
            with pytest.raises(weft.CoverageError, match='"c"'):
                receiver.refit(timeout=PATIENCE)
            assert receiver.fenced
    with pytest.raises(weft.Refused, match="closed"):
        publisher.publish(4)


def test_a_version_that_never_comes(catalog):
    with weft.Receiver(catalog, "m", weft.tensors(poisoned())) as receiver:
        start = time.monotonic()
        with pytest.raises(weft.DeadlineExceeded):
            receiver.refit(timeout=1)
        assert time.monotonic() - start < PATIENCE
        assert isinstance(receiver.fenced_reason, str) and receiver.fenced


def test_a_loop_that_never_publishes_is_noticed(catalog):
    """Whoever asks for newer weights than it holds does not get the old ones
    for new."""
    live, mine = weights(1), poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine)) as receiver:
        publisher.publish(1)
        receiver.refit(newer=True, timeout=PATIENCE)
        with pytest.raises(weft.DeadlineExceeded, match="newer than run:0:1"):
            receiver.refit(newer=True, timeout=0.3)
        assert not receiver.fenced and receiver.committed == "run:0:1"
        with publisher.update():
            live["a"][...] = 3
        publisher.publish(2)
        assert receiver.refit(newer=True, timeout=PATIENCE).version == "run:0:2"
        assert (mine["a"] == 3).all()


@pytest.fixture
def interruptible():
    """A shell starts background jobs with Ctrl-C ignored, and Python keeps it
    so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_ends_a_wait(catalog, interruptible):
    with weft.Receiver(catalog, "m", weft.tensors(poisoned())) as receiver:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            receiver.refit(timeout=PATIENCE)
        timer.join()


def test_event_loop_goes_on(catalog):
    live, mine = weights(1), poisoned()

    async def main():
        with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
                weft.Receiver(catalog, "m", weft.tensors(mine)) as receiver:
            refit = asyncio.create_task(receiver.refit_async(timeout=PATIENCE))
            await asyncio.sleep(0)
            await publisher.publish_async(0)
            return await refit

    assert asyncio.run(main()).version == "run:0:0"
    assert numpy.array_equal(mine["a"], live["a"])


def test_hook_runs_before_the_commit(catalog):
    live, mine = weights(1), poisoned()
    seen = []

    def hook(version):
        seen.append((version, receiver.fenced, bool((mine["a"] == live["a"]).all())))
        if len(seen) == 1:
            raise ValueError("derived tensors do not fit")

    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine), hook=hook) as receiver:
        publisher.publish(0)
        with pytest.raises(weft.WeftError, match="derived tensors do not fit"):
            receiver.refit(timeout=PATIENCE)
        assert receiver.fenced
        receiver.refit(timeout=PATIENCE)
        assert not receiver.fenced
    assert seen == [("run:0:0", True, True)] * 2


def test_a_part_that_the_model_does_not_have_is_refused(catalog):
    live = {"attention.q.weight": numpy.ones(8, numpy.float32),
            "attention.q_norm.weight": numpy.ones(8, numpy.float32),
            "value_head.weight": numpy.ones(8, numpy.float32)}
    mine = weft.tensors({"attention.q.weight": numpy.zeros(8, numpy.float32)})
    mine.known_tensors = ["attention.q.weight"]
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", mine) as receiver:
        publisher.publish(0)
        with pytest.raises(weft.CoverageError) as failure:
            receiver.refit(timeout=PATIENCE)
        assert str(failure.value) == (
            'the trainer publishes "attention.q_norm.weight", which this model '
            "does not have: it would be served without")
    mine.known_tensors.append("attention.q_norm.weight")
    with weft.Publisher(catalog, "m", weft.tensors(live), epoch=1) as publisher, \
            weft.Receiver(catalog, "m", mine) as receiver:
        publisher.publish(0)
        receiver.refit(timeout=PATIENCE)


def test_a_deeper_model_of_the_name_is_said_or_refused(catalog, capfd):
    def layers(count, value):
        return {f"layers.{layer}.q.weight":
                numpy.full(8, value, numpy.float32) for layer in range(count)}

    def engine(**options):
        target = weft.tensors(layers(2, 0))
        target.known_tensors = list(layers(2, 0))
        return weft.Receiver(catalog, "m", target, **options)

    said = ('the trainer publishes 5 tensors, and 3 of them, such as '
            '"layers.2.q.weight", belong to no module of this model: they are '
            "not taken")
    with weft.Publisher(catalog, "m", weft.tensors(layers(5, 1))) as publisher:
        with engine() as receiver:
            for step in range(2):
                with publisher.update():
                    pass
                publisher.publish(step)
                assert receiver.refit(timeout=PATIENCE).not_taken == said
        assert capfd.readouterr().err.count(said) == 1
        with engine(refuse_unknown_tensors=True) as receiver, \
                pytest.raises(weft.CoverageError) as failure:
            receiver.refit(timeout=PATIENCE)
        assert str(failure.value).startswith(said)
    with weft.Publisher(catalog, "m", weft.tensors(layers(2, 1)),
                        epoch=1) as publisher, \
            engine(refuse_unknown_tensors=True) as receiver:
        publisher.publish(0)
        assert receiver.refit(timeout=PATIENCE).not_taken == ""


def test_memory_without_numpy(catalog):
    placement = weft.Placement("tensors", 0, 1)
    index = placement.tensor("t", "F32", (6,))
    placement.stored.append(weft.StoredTensor("t", "F32", (6,), [
        weft.Fragment.row_major(index, [(0, 6)], (6,), (0,))]))
    live, mine = array.array("f", range(6)), array.array("f", [9] * 6)
    with weft.Publisher(catalog, "m", weft.tensors({"t": live}, placement)) as p, \
            weft.Receiver(catalog, "m", weft.tensors({"t": mine}, placement)) as r:
        p.publish(0)
        r.refit(timeout=PATIENCE)
    assert mine == live


def hold_one(value, **options):
    from weft import memory
    return memory.hold("t", value, **options)


def test_memory_is_borrowed_not_copied():
    value = numpy.arange(24, dtype=numpy.float32).reshape(4, 6)
    address = value.ctypes.data
    assert (hold_one(value).address, hold_one(value).num_bytes) == (address, 96)
    assert hold_one(value[1:3]).address == address + 24
    assert hold_one(memoryview(value)).address == address
    frozen = value[:]
    frozen.flags.writeable = False
    assert hold_one(frozen).address == address
    assert hold_one(bytes(range(9))).num_bytes == 9
    assert hold_one(numpy.zeros((0, 3))).num_bytes == 0
    ml_dtypes = pytest.importorskip("ml_dtypes")
    small = value.astype(ml_dtypes.bfloat16)
    assert hold_one(small).address == small.__array_interface__["data"][0]
    assert hold_one(small).num_bytes == 48


def test_borrowed_memory_outlives_the_tensor():
    value = numpy.full(1 << 20, 7, numpy.uint8)
    alive = weakref.ref(value)
    held = hold_one(value)
    del value
    gc.collect()
    assert alive() is not None and ctypes.string_at(held.address, 3) == b"\7\7\7"
    del held
    gc.collect()
    assert alive() is None


def test_memory_that_is_refused():
    value = numpy.arange(24, dtype=numpy.float32).reshape(4, 6)
    for wrong in (value.T, value[:, ::2], memoryview(value)[::2]):
        with pytest.raises(ValueError, match='"t".*strides.*contiguous'):
            hold_one(wrong)
    with pytest.raises(ValueError, match='"t" is a list.*neither by DLPack'):
        hold_one([1, 2])
    value.flags.writeable = False
    for frozen in (value, bytes(8), memoryview(bytes(8))):
        with pytest.raises(ValueError, match='"t" is read-only'):
            hold_one(frozen, to_write=True)


def memory_kib(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status
                    if line.startswith(field + ":"))


@pytest.mark.parametrize("transports", ["auto", "ucx"])
def test_no_copy_of_the_model(catalog, transports):
    """Whatever is used beside the weights fits the staging budget, at both
    ends together, in the first refit (which plans and connects) and later."""
    if transports == "ucx" and weft.ucx is None:
        pytest.skip("no UCX on this machine")
    shape, staging_bytes = (6, 8 << 20), 32 << 20  # 192 MiB of weights
    live = {"w": numpy.full(shape, 1, numpy.float32)}
    mine = {"w": numpy.full(shape, -7, numpy.float32)}
    with weft.Publisher(catalog, "m", weft.tensors(live),
                        transports=transports) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine), transports=transports,
                          staging_bytes=staging_bytes) as receiver:
        for step in range(2):
            with publisher.update():
                live["w"] += 1
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak begins anew (proc(5))
            before = memory_kib("VmRSS")
            publisher.publish(step)
            receiver.refit(timeout=PATIENCE)
            assert (memory_kib("VmHWM") - before) << 10 < staging_bytes
            assert numpy.array_equal(mine["w"], live["w"])


def test_import_needs_nothing():
    code = ("import sys, weft; heavy = {'torch', 'numpy', 'vllm'} & set(sys.modules);"
            "import json; print(json.dumps(sorted(heavy)))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True,
                            text=True, check=True,
                            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert json.loads(result.stdout) == []


def test_symbols_are_hidden():
    import weft._native as native
    path = pathlib.Path(native.__file__)
    result = subprocess.run(["nm", "-D", "--defined-only", path],
                            capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("no nm here")
    leaked = [line for line in result.stdout.splitlines()
              if "grpc" in line or "absl" in line or "protobuf" in line]
    assert leaked == []
