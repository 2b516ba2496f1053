"""NVIDIA ModelExpress's own clients, as installed from PyPI, against
`weft catalog --modelexpress`. Run by the Python that has torch, with
.deps/modelexpress on its path: scripts/test.sh."""

import concurrent.futures
import hashlib
import json
import random
import subprocess
import threading

import grpc
import pytest

from conftest import BINARY, SEED
from modelexpress import p2p_pb2 as p2p
from modelexpress.client import MxClient
from modelexpress.metadata.publisher import PublisherThread
from modelexpress.metadata.source_id import compute_mx_source_id
from modelexpress.metadata.worker_server import WorkerGrpcServer
from modelexpress_rl import refit_pb2 as refit
from modelexpress_rl import refit_pb2_grpc as refit_grpc
from modelexpress_rl.control import (
    ModelExpressControlClient, ObjectStorageSource, ObjectStorageType,
    WeightVersionState)
from modelexpress_rl.inference.client import ModelExpressGeneratorClient
from modelexpress_rl.inference.source.trainer import TrainerSourceResolver
from modelexpress_rl.train import WeightPayloadFormat
from modelexpress_rl.train.adapter import (
    StagedWeightVersionShardData, TrainerStagingMode,
    WeightVersionShardManifest)
from modelexpress_rl.train.client import ModelExpressTrainerClient
from modelexpress_rl.train.manifest import WeightVersionShardManifestService
from modelexpress_rl.train.methods.full_tensor import (
    FullTensorNixlPublicationMethod)
from ports import free_port

PATIENCE = 60
READY = p2p.SOURCE_STATUS_READY
STALE = p2p.SOURCE_STATUS_STALE


class Catalog:
    def __init__(self, address="127.0.0.1:0"):
        self.child = subprocess.Popen(
            [BINARY, "catalog", "--listen", "127.0.0.1:0", "--modelexpress",
             address, "--json"], stdout=subprocess.PIPE, text=True)
        self.address = json.loads(self.child.stdout.readline())["modelexpress"]

    def kill(self):
        self.child.kill()
        self.child.wait(PATIENCE)
        self.child.stdout.close()


@pytest.fixture(scope="module")
def address():
    catalog = Catalog()
    yield catalog.address
    catalog.kill()


@pytest.fixture
def client(address):
    client = MxClient(address)
    yield client
    client.close()


@pytest.fixture
def control(address):
    with ModelExpressControlClient.connect(server_url=address) as client:
        yield client


def identity(model, **fields):
    return p2p.SourceIdentity(mx_version="0.7.0", model_name=model,
                              backend_framework=1, tensor_parallel_size=2,
                              dtype="bfloat16", **fields)


def worker(rank, tensors=2, **fields):
    described = [
        p2p.TensorDescriptor(name=f"layers.{i}.weight", addr=(1 << 63) + i,
                             size=4096 * (i + 1), device_id=rank,
                             dtype="torch.bfloat16") for i in range(tensors)]
    return p2p.WorkerMetadata(
        worker_rank=rank, nixl_metadata=b"\x00agent\xff", agent_name=f"a{rank}",
        tensors=described, accelerator="cuda", topology={"rack": "r1"},
        tensor_source=p2p.TensorSourceMetadata(tensors=described), **fields)


def listed(client, **filters):
    return [(row.worker_id, row.worker_rank)
            for row in client.list_sources(**filters).instances]


# ---- finding sources ----

def test_a_source_is_published_listed_fetched_and_updated(client):
    of = identity("org/published")
    sent = worker(1)
    source = client.publish_metadata(of, sent, "w1")
    assert source == compute_mx_source_id(of)
    assert listed(client, identity=of) == [("w1", 1)]
    assert listed(client, identity=of, status_filter=READY) == []

    assert client.update_status(source, "w1", 1, READY, source_load=0.25)
    row, = client.list_sources(of, READY).instances
    assert row.mx_source_id == source and row.model_name == "org/published"
    assert dict(row.topology) == {"rack": "r1"} and row.source_load == 0.25
    assert row.accelerator == "cuda" and row.updated_at > 0

    got = client.get_metadata(source, "w1")
    assert got.found and got.identity == of and got.worker_id == "w1"
    sent.status, sent.updated_at = READY, got.worker.updated_at
    assert got.worker == sent

    assert client.update_status(source, "w1", 1, STALE)
    assert listed(client, identity=of, status_filter=READY) == []
    assert client.get_metadata(source, "w1").worker.status == STALE


def test_what_is_not_there_is_said_to_be_so(client):
    assert not client.get_metadata("0" * 16, "w").found
    assert not client.update_status("0" * 16, "w", 0, READY)
    assert listed(client, identity=identity("org/never")) == []
    with pytest.raises(RuntimeError, match="model_name is required"):
        client.publish_metadata(identity(""), worker(0), "w")
    with pytest.raises(RuntimeError, match="worker_id is required"):
        client.publish_metadata(identity("m"), worker(0), " ")
    with pytest.raises(RuntimeError, match="more than 1024"):
        client.publish_metadata(identity("m" * 5000), worker(0), "w")


def test_ids_are_those_that_the_client_computes(client):
    chance = random.Random(SEED)
    letters = [chr(c) for c in range(32, 127)]

    def text():
        return "".join(chance.choices(letters, k=chance.randrange(12)))

    for _ in range(200):
        of = p2p.SourceIdentity(
            mx_version=text(), mx_source_type=chance.randrange(10),
            model_name="m" + text(), backend_framework=chance.randrange(4),
            tensor_parallel_size=chance.randrange(2**32),
            expert_parallel_size=chance.randrange(3), dtype=text(),
            quantization=text(), revision=text(), gpu_arch=text(),
            torch_version=text(), compile_config_digest=text(),
            extra_parameters={text(): text() for _ in range(4)})
        assert client.publish_metadata(of, worker(0, 0), "w") == \
            compute_mx_source_id(of), f"seed {SEED}: {of}"


def test_filters_of_a_list(client):
    for step in range(4):
        of = identity("org/steps", extra_parameters={"training_step": str(step)})
        source = client.publish_metadata(of, worker(step), f"w{step}")
        assert client.update_status(source, f"w{step}", step, READY)

    def ask(**filters):
        response = client.stub.ListSources(p2p.ListSourcesRequest(
            model_name_filter="org/steps", **filters))
        return {row.worker_id: row.training_step for row in response.instances}

    assert ask() == {f"w{step}": step for step in range(4)}
    assert ask(min_training_step=2) == {"w2": 2, "w3": 3}
    assert ask(worker_rank_filter=1) == {"w1": 1}
    assert len(ask(status_filter=READY, limit=3)) == 3
    assert ask(min_updated_at=2**62) == {}


def test_thousands_of_tensors_and_many_clients_at_once(address):
    sizes = 5_000

    def publish(rank):
        own = MxClient(address)
        source = own.publish_metadata(identity("org/large"),
                                      worker(rank, sizes), f"w{rank}")
        own.update_status(source, f"w{rank}", rank, READY)
        got = own.get_metadata(source, f"w{rank}").worker
        own.close()
        return len(got.tensors), len(got.tensor_source.tensors)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(publish, range(8))) == {(sizes, sizes)}


def test_the_publisher_thread_comes_back_after_a_restart():
    where = f"127.0.0.1:{free_port()}"
    first = Catalog(where)
    published = threading.Semaphore(0)
    of = identity("org/restart")
    client = MxClient(where)

    def publish():
        source = client.publish_metadata(of, worker(0), "w")
        published.release()
        return source

    thread = PublisherThread(client, worker_id="w", worker_rank=0,
                             publish_fn=publish, interval_secs=1)
    thread.start()
    try:
        assert published.acquire(timeout=PATIENCE)
        first.kill()
        second = Catalog(where)
        try:
            assert published.acquire(timeout=PATIENCE), "published anew"
            assert listed(client, identity=of) == [("w", 0)]
            thread.stop()
            assert listed(client, identity=of, status_filter=STALE) == \
                [("w", 0)]
        finally:
            second.kill()
    finally:
        thread.stop()
        client.close()


def test_a_message_of_more_than_100_mb_is_refused(client):
    source = worker(0)
    source.nixl_metadata = bytes(101 << 20)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(client.server_url, options=options) as channel:
        publish = channel.unary_unary("/model_express.p2p.P2pService/"
                                      "PublishMetadata")
        request = p2p.PublishMetadataRequest(
            identity=identity("org/huge"), worker=source, worker_id="w")
        with pytest.raises(grpc.RpcError) as refused:
            publish(request.SerializeToString(), timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert listed(client, identity=identity("org/huge")) == []


def test_weft_lists_their_sources_and_asks_workers_for_tensors(
        client, weft):
    model = "org/listed"
    source = client.publish_metadata(identity(model), worker(0), "central")
    assert client.update_status(source, "central", 0, READY)
    kept = worker(1, 3)
    server = WorkerGrpcServer(
        tensor_protos=list(kept.tensors), mx_source_id=source, port=0,
        metadata_endpoint="127.0.0.1:1", agent_name="a1", worker_rank=1,
        accelerator="cuda", worker_id="keeps")
    endpoint = f"127.0.0.1:{server.start()}"
    try:
        client.publish_metadata(identity(model), p2p.WorkerMetadata(
            worker_rank=1, agent_name="a1", worker_grpc_endpoint=endpoint),
            "keeps")

        def rows(*more):
            done = weft("sources", "--modelexpress", client.server_url,
                        "--model", model, "--json", *more)
            assert done.returncode == 0, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        central, keeps = rows()
        assert (central["worker_id"], central["rank"]) == ("central", 0)
        assert central["status"] == "READY" and central["bytes"] == 4096 * 3
        assert central["transport"] == keeps["transport"] == "nixl"
        assert central["framework"] == "vllm" and "tensor_list" not in central
        assert keeps["tensors"] == 0 and endpoint in keeps["note"]

        _, keeps = rows("--tensors")
        assert keeps["tensor_list"] == [
            {"name": t.name, "dtype": t.dtype, "bytes": t.size, "device": 1}
            for t in kept.tensors]
        assert keeps["note"] == ""
    finally:
        server.stop()
    _, keeps = rows("--tensors")
    assert keeps["tensors"] == 0 and endpoint in keeps["note"]
    text = weft("sources", "--modelexpress", client.server_url, "--model",
                model).stdout
    assert "NIXL" in text and "2 torch.bfloat16" in text


def test_weft_says_when_no_server_answers(weft):
    done = weft("sources", "--modelexpress", "127.0.0.1:1", "--timeout", "5")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr


# ---- refits ----

class Fence:
    def wait(self):
        pass


class Adapter:
    """In place of an engine: one slot, one manifest."""

    supported_staging_modes = frozenset({TrainerStagingMode.IN_PLACE})
    supported_payload_formats = frozenset({WeightPayloadFormat.FULL_TENSOR})

    def __init__(self, slot):
        self.source_slot_id = slot
        table = {"schema": "mx.reshard.shard_table.v1", "agent_name": slot,
                 "metadata_endpoint": "127.0.0.1:1", "agent_meta_b64": "",
                 "tensors": [{
                     "name": "w", "dtype": "torch.bfloat16", "elsize": 2,
                     "full_shape": [4], "shards": [{
                         "agent_name": slot, "device_id": 0, "addr": 4096,
                         "shard_offset": [0], "shape": [4]}]}]}
        self.manifest = WeightVersionShardManifest(
            json.dumps(table).encode(), 1, 8, "NIXL")

    def stage_shard(self, **_):
        return StagedWeightVersionShardData(self.manifest, Fence())


class Manifests(WeightVersionShardManifestService):
    """ModelExpress's own manifest service, on a port of this machine."""

    def __init__(self):
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        port = self.server.add_insecure_port("127.0.0.1:0")
        super().__init__(endpoint=f"127.0.0.1:{port}")
        refit_grpc.add_RefitWorkerServiceServicer_to_server(self, self.server)
        self.server.start()


class Trainer:
    """Their trainer client around what publishes full tensors."""

    def __init__(self, address, model, worker_id, slot):
        self.client = ModelExpressTrainerClient()
        self.client.model_name, self.client.worker_id = model, worker_id
        self.client.server_url = address
        self.client._registration_ttl_seconds = 90
        self.client._rpc_timeout_seconds = PATIENCE
        self.client._register_worker()
        self.manifests = Manifests()
        self.method = FullTensorNixlPublicationMethod(
            adapter=Adapter(slot), staging_mode=TrainerStagingMode.IN_PLACE,
            payload_format=WeightPayloadFormat.FULL_TENSOR,
            manifest_publisher=self.manifests,
            service=lambda: self.client._service, worker_id=worker_id,
            rpc_timeout_seconds=PATIENCE)

    def publish(self, version):
        self.method.publish(version=version.ref, staged=self.method.stage(
            version=version.ref, tensors={}))

    def release(self, version):
        self.method.release(version=version.ref)

    def close(self):
        self.manifests.server.stop(None)
        self.client.close()


@pytest.fixture
def trainer(address):
    trainers = []

    def start(model, worker_id, slot):
        trainers.append(Trainer(address, model, worker_id, slot))
        return trainers[-1]

    yield start
    for each in trainers:
        each.close()


@pytest.fixture
def generator(address):
    def start(model, worker_id):
        client = ModelExpressGeneratorClient()
        client.model_name, client.worker_id = model, worker_id
        client.server_url = address
        client._registration_ttl_seconds = client._lease_ttl_seconds = 90
        client._rpc_timeout_seconds = PATIENCE
        client._register_worker()
        return client

    return start


def code_of(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code().name


def sharded(control, model, key, slots):
    return control.create_weight_version(
        model_name=model, idempotency_key=key, expected_source_slots=slots,
        payload_format=WeightPayloadFormat.FULL_TENSOR)


def test_a_refit_by_their_three_clients(control, trainer, generator):
    model = "org/refit"
    trainers = [trainer(model, f"trainer{i}", f"slot{i % 2}") for i in range(3)]
    engine = generator(model, "engine")
    version = sharded(control, model, "step 1", ["slot0", "slot1"])
    assert version.state is WeightVersionState.STAGING
    assert sharded(control, model, "step 1", ["slot0", "slot1"]) == version
    with pytest.raises(RuntimeError, match="is not READY"):
        engine._get_ready_version(version.version_id)

    for each in trainers:
        each.publish(version)
    ready = engine._get_ready_version(version.version_id)
    assert ready.expected_source_slots == ("slot0", "slot1")

    lease = engine._start_version_lease(version.version_id)
    assert lease._lease_id == hashlib.sha256(
        f"{version.version_id}\0engine".encode()).hexdigest()[:8]
    resolver = TrainerSourceResolver(service=lambda: engine._service,
                                     rpc_timeout_seconds=PATIENCE)
    shards = engine._service.ListWeightVersionShards(
        refit.ListWeightVersionShardsRequest(version_id=version.version_id))
    assert [(s.source_slot_id, s.worker_id) for s in shards.shards] == [
        ("slot0", "trainer0"), ("slot0", "trainer2"), ("slot1", "trainer1")]
    for shard in shards.shards:
        data, _ = resolver._fetch_manifest(shard)
        assert json.loads(data)["agent_name"] == shard.source_slot_id

    control.delete_weight_version(version.version_id)
    assert code_of(lambda: trainers[0].release(version)) == \
        "FAILED_PRECONDITION"
    lease.close()
    for each in trainers:
        each.release(version)
    assert control.get_weight_version(version.version_id).state is \
        WeightVersionState.RELEASING


def test_versions_in_object_storage(control, generator):
    model = "org/stored"

    def create(key, **fields):
        return control.create_weight_version(
            model_name=model, idempotency_key=key, object_storage=
            ObjectStorageSource(storage_type=ObjectStorageType.S3,
                                uri=f"s3://bucket/{key}"), **fields)

    full = create("full", uid="stored-full",
                  payload_format=WeightPayloadFormat.FULL_HF_CHECKPOINT)
    assert full.version_id == "stored-full"
    control.update_weight_version_state("stored-full",
                                        WeightVersionState.READY)
    delta = create("delta", payload_format=WeightPayloadFormat.XOR_DELTA,
                   base_version_id="stored-full",
                   state=WeightVersionState.READY)
    assert delta.object_storage.uri == "s3://bucket/delta"
    engine = generator(model, "stored-engine")
    engine._max_replay_chain_length = 4
    chain = engine._resolve_replay_chain(delta.version_id, from_full_root=True)
    assert [v.version_id for v in chain] == ["stored-full", delta.version_id]


def test_errors_have_their_codes(control, trainer, generator):
    model = "org/errors"
    version = sharded(control, model, "k", ["a"])
    assert code_of(lambda: control.get_weight_version("never")) == "NOT_FOUND"
    assert code_of(lambda: sharded(control, model, "k", ["b"])) == \
        "ALREADY_EXISTS"
    assert code_of(lambda: sharded(control, model, "k2", ["a", "a"])) == \
        "INVALID_ARGUMENT"
    assert code_of(lambda: control.update_weight_version_state(
        version.version_id, WeightVersionState.READY)) == "FAILED_PRECONDITION"
    wrong = trainer(model, "errors-trainer", "b")
    assert code_of(lambda: wrong.publish(version)) == "INVALID_ARGUMENT"
    foreign = trainer("org/other", "errors-foreign", "a")
    assert code_of(lambda: foreign.publish(version)) == "FAILED_PRECONDITION"
    engine = generator(model, "errors-engine")
    assert code_of(lambda: engine._register_lease(version.version_id)) == \
        "FAILED_PRECONDITION"
    # Cancelled while nothing was published.
    assert control.delete_weight_version(version.version_id).state is \
        WeightVersionState.RELEASING


def test_other_services_of_their_server_are_not_there(address):
    with grpc.insecure_channel(address) as channel:
        for path in ("/model_express.p2p.WorkerService/GetTensorManifest",
                     "/model_express.model.ModelService/EnsureModelDownloaded"):
            assert code_of(lambda path=path: channel.unary_unary(path)(
                b"", timeout=PATIENCE)) == "UNIMPLEMENTED"
        # Field 1, the status, is 1: SERVING.
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health(b"\x0a\x1cmodel_express.p2p.P2pService",
                      timeout=PATIENCE) == b"\x08\x01"
