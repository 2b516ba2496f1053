"""What users see when things fail: vLLM's own server, a real catalog, real
publishers and receivers.

Expected answers are those of fresh engines that loaded the weights from disk.
"""

import gc
import json
import re
import subprocess
import sys
import threading
import time

import pytest
import torch
from vllm import LLM, SamplingParams

import children
import engines
import serving
import tiny_models
import weft
from serving import LONG

PROMPT = [5, 17, 300, 7, 42]
RUNNING = 400  # tokens of a request that is to be in flight
START_SECONDS = 240


def start_engine(folder):
    return LLM(str(folder), skip_tokenizer_init=True, enforce_eager=True,
               dtype="bfloat16", max_model_len=1024, max_num_seqs=4,
               disable_log_stats=True, weight_transfer_config={
                   "backend": "weft"})


def generate(llm, prompt, tokens):
    sampling = SamplingParams(temperature=0, max_tokens=tokens,
                              ignore_eos=True, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": list(prompt)}], sampling,
                             use_tqdm=False)
    return list(output.outputs[0].token_ids)


class World:
    """Weights A and B on disk, what fresh engines answer, a catalog with A as
    version run:0:1 of model "home", and a server that was started from A. Each
    test publishes under a model name of its own."""

    def __init__(self, folder):
        self.config = tiny_models.config_of("qwen2", tied=False)
        self.config["max_position_embeddings"] = 1024
        self.a = tiny_models.random_tensors(self.config, 1)
        self.b = tiny_models.random_tensors(self.config, 2)
        self.folder_a = tiny_models.write(folder / "a", self.config, self.a)
        self.folder_b = tiny_models.write(folder / "b", self.config, self.b)
        self.file_a = self.folder_a / "model.safetensors"
        self.file_b = self.folder_b / "model.safetensors"
        self.server = serving.Server(
            self.folder_a, folder / "server.log", max_model_len=1024,
            environment={"VLLM_LOGGING_LEVEL": "INFO"})
        self.publishers = []
        self.catalog = weft.CatalogServer()
        self.offline = None

    def start(self):
        first = start_engine(self.folder_a)
        self.answer_a = generate(first, LONG, 8)
        self.running_a = generate(first, PROMPT, RUNNING)
        engines.stop(first)
        del first  # its finalizer ends the parallel state of this process
        gc.collect()
        self.offline = start_engine(self.folder_b)
        self.answer_b = generate(self.offline, LONG, 8)
        assert self.answer_a != self.answer_b
        self.publish("home", self.a)
        self.server.wait(START_SECONDS)

    def publish(self, model, tensors, step=1):
        """From a publisher in this process."""
        publisher = weft.Publisher(self.catalog.address, model,
                                   weft.tensors(tensors))
        self.publishers.append(publisher)
        publisher.publish(step=step)

    def init(self, model, **info):
        info = {"catalog": self.catalog.address, "timeout": 60} | info
        return self.server.init(model=model, **info)

    def go_home(self):
        """Weights A, labelled run:0:1, not paused, whatever was before."""
        assert self.init("home") == (200, '{"message":"Weight transfer '
                                          'initialized"}')
        assert self.server.refit("run:0:1") == (200, "")
        assert self.server.call("/resume")[0] == 200

    def checksums(self):
        """Of every parameter and buffer of the server's engine, by vLLM."""
        status, text = self.server.call("/weight_checker",
                                        {"action": "checksum"})
        assert status == 200, text
        return json.loads(text)["checksums"]

    def close(self):
        self.server.close()
        for publisher in self.publishers:
            publisher.close()
        if self.offline is not None:
            engines.stop(self.offline)
            self.offline = None
            gc.collect()
        self.catalog.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory, plugin_path):
    made = World(tmp_path_factory.mktemp("failures"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def start():
    with children.starting() as start_child:
        yield start_child


@pytest.fixture
def server(world):
    world.go_home()
    assert world.server.ask() == (200, world.answer_a)
    return world.server


def start_trainer(start, world, model, file, *more):
    return start("trainer", "--catalog", world.catalog.address, "--model",
                 model, "--file", file, *more)


# ---- a trainer that dies or hangs in mid-refit ------------------------------

class Refitting:
    """A refit in a thread of its own."""

    def __init__(self, server, version, **info):
        self._thread = threading.Thread(
            target=lambda: self._set(server.refit(version, **info)))
        self._thread.start()

    def _set(self, result):
        self._result = result

    def result(self):
        self._thread.join(serving.CALL_SECONDS)
        return self._result


def start_held_trainer(start, world, model):
    """A trainer of B that stops in the middle of serving lm_head."""
    trainer = start_trainer(start, world, model, world.file_b, "--transports",
                            "ucx", "--hold", "lm_head.weight")
    assert trainer.event("published")["version"] == "run:0:1"
    trainer.event("armed")
    assert world.init(model, transports="ucx")[0] == 200
    return trainer


def assert_fenced(server, why):
    assert server.process.poll() is None
    assert server.call("/health", get=True)[0] == 200
    assert server.label() == "fenced"
    status, text = server.call("/resume")
    assert status == 500 and "the engine is fenced" in text and why in text
    assert server.ask()[0] == 500
    status, text = server.call("/update_weight_version", {"new_version": "mine"})
    assert status == 500 and "the engine is fenced" in text
    status, text = server.call("/finish_weight_update",
                               {"weight_version": "mine"})
    assert status == 500
    assert server.label() == "fenced"


def test_a_trainer_killed_in_mid_refit(world, server, start):
    trainer = start_held_trainer(start, world, "killed")
    refitting = Refitting(server, "run:0:1")
    trainer.event("held")  # its bytes are on their way
    trainer.kill()
    status, text = refitting.result()
    assert status == 500
    assert "publisher rank 0" in text and "heals it" in text, text
    assert_fenced(server, "publisher rank 0")

    # A new trainer under the same name takes over with a larger epoch.
    start_trainer(start, world, "killed", world.file_b, "--transports", "ucx",
                  "--epoch", 1, "--step", 4).event("published")
    assert server.refit("latest") == (200, "")
    assert server.label() == "run:1:4"
    assert not server.is_paused()
    assert server.ask() == (200, world.answer_b)


def test_a_trainer_that_hangs_in_mid_refit(world, server, start):
    trainer = start_held_trainer(start, world, "hung")
    refitting = Refitting(server, "latest", timeout=6)
    trainer.event("held")
    status, text = refitting.result()
    assert status == 500 and "deadline" in text, text
    assert_fenced(server, "deadline")
    trainer.kill()

    # The operator takes the weights as they are.
    assert server.call("/start_weight_update")[0] == 200
    status, text = server.call("/update_weights",
                               {"update_info": {"unfence": True}})
    assert status == 200, text
    assert server.call("/finish_weight_update")[0] == 200
    assert server.label() == "unverified"
    assert server.call("/resume")[0] == 200
    assert server.ask()[0] == 200
    status, text = server.call("/start_weight_update")
    assert status == 500 and "call init_weight_transfer_engine first" in text


def await_gone(world, model):
    """Until the catalog has seen the end of the publisher."""
    catalog = weft.Catalog(world.catalog.address)
    deadline = time.monotonic() + children.PATIENCE
    while [each["state"] for each in catalog.versions(model)] != ["GONE"]:
        assert time.monotonic() < deadline, catalog.versions(model)


def test_a_trainer_killed_between_refits(world, server, start):
    trainer = start_trainer(start, world, "gone", world.file_b)
    trainer.event("published")
    assert world.init("gone")[0] == 200
    assert server.refit("run:0:1") == (200, "")
    trainer.kill()
    await_gone(world, "gone")
    before = world.checksums()
    status, text = server.refit("run:0:1", timeout=60)
    assert status == 500 and "rank 0 died" in text, text
    assert "before the first byte" in text
    assert (server.label(), world.checksums()) == ("run:0:1", before)
    assert server.ask() == (200, world.answer_b)


# ---- refused before the first byte ------------------------------------------

def assert_refused(world, expected, version="latest", **info):
    """The refit fails with the sentence, and the engine is as it was."""
    server = world.server
    before = world.checksums()
    status, text = server.refit(version, **info)
    assert status == 500
    assert re.search(expected, json.loads(text)["error"]["message"]), text
    assert "fenced" not in text
    assert (server.label(), world.checksums()) == ("run:0:1", before)
    assert not server.is_paused()
    assert server.ask() == (200, world.answer_a)


@pytest.mark.parametrize("version,expected", [
    ("run:0:99", 'version run:0:99 of model "nobody" is not READY after .*; '
                 "the catalog does not know it"),
    ("latest", 'model "nobody" has no READY version after .*; '
               "nothing has been published"),
    ("newest", '"newest"'),
])
def test_a_version_that_never_comes(world, server, version, expected):
    assert world.init("nobody")[0] == 200
    assert_refused(world, expected, version, timeout=1)


def without(name):
    return lambda world: {key: value for key, value in world.a.items()
                          if key != name}


def other_shapes(world):
    config = world.config | {"intermediate_size": 64}
    return tiny_models.random_tensors(config, 3)


def other_family(_):
    config = tiny_models.config_of("qwen3", tied=False)
    return tiny_models.random_tensors(config, 3)


def other_dtype(world):
    return world.a | {"model.norm.weight": world.a["model.norm.weight"].to(
        torch.float8_e4m3fn)}


WRONG_TRAINERS = {
    "missing": (without("model.layers.1.mlp.down_proj.weight"),
                weft.CoverageError,
                r'no source holds \[0,128\)x\[0,96\) of '
                r'"model.layers.1.mlp.down_proj.weight"'),
    "shapes": (other_shapes, weft.BadInput,
               r'"model.layers.0.mlp.down_proj.weight" has shape'),
    "family": (other_family, weft.CoverageError,
               r'"model.layers.1.self_attn.v_proj.bias".*the trainer publishes '
               r'"model.layers.0.self_attn.k_norm.weight", which this model '
               r"does not have"),
    "dtype": (other_dtype, weft.WeftError,
              r'no conversion F8_E4M3 -> BF16.*"model.norm.weight"'),
}


@pytest.mark.parametrize("case", WRONG_TRAINERS)
def test_a_trainer_of_another_model(world, server, case):
    tensors, _, expected = WRONG_TRAINERS[case]
    world.publish(case, tensors(world))
    assert world.init(case)[0] == 200
    assert_refused(world, expected, timeout=20)


def test_a_catalog_that_is_away(world, server, start):
    before = world.checksums()
    status, text = world.init("home", catalog="127.0.0.1:1", timeout=5)
    assert status == 500 and "no catalog answers at 127.0.0.1:1" in text, text
    # The receiver of before is closed: nothing is received by mistake.
    status, text = server.call("/start_weight_update")
    assert status == 500 and "call init_weight_transfer_engine first" in text

    other = start("catalog")
    address = other.event("listening")["address"]
    assert world.init("home", catalog=address)[0] == 200
    other.kill()
    assert_refused(world, f"catalog.*{address}", "run:0:1", timeout=5)
    assert world.checksums() == before


def test_the_wrong_words(world, server):
    status, text = world.init("home", speed=9)
    assert status == 500 and "speed" in text
    status, text = world.init("home", timeout="soon")
    assert status == 500 and "timeout is 'soon'" in text
    world.go_home()
    assert_refused(world, "'version' is 7|version is 7", 7)
    assert_refused(world, "timeout is -1, it must be a number of seconds",
                   timeout=-1)


def test_float32_weights_are_rounded(world, server):
    """A conversion that the log names, not a fault: half a unit in the last
    place of bfloat16 is 2**-9 of a value or more, so these round to B."""
    nearby = {name: value.float() * (1 + 2.0 ** -10)
              for name, value in world.b.items()}
    assert all(torch.equal(value.to(torch.bfloat16), world.b[name])
               for name, value in nearby.items())
    world.publish("float32", nearby)
    assert world.init("float32")[0] == 200
    assert server.refit("latest") == (200, "")
    assert server.ask() == (200, world.answer_b)
    assert f"{len(nearby)} tensors converted F32 -> BF16, which rounds" \
        in server.log.read_text()


def test_offline_exceptions_have_their_class(world, start):
    """LLM with its engine core in this process."""
    llm = world.offline
    with pytest.raises(weft.WeftError, match="call init_weight_transfer"):
        llm.start_weight_update()

    def init(model, catalog=world.catalog.address):
        llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog, "model": model, "timeout": 20}})

    def fails(kind, expected, **info):
        llm.start_weight_update()
        with pytest.raises(kind, match=expected):
            llm.update_weights({"update_info": info})

    with pytest.raises(weft.PeerLost, match="no catalog answers"):
        init("home", catalog="127.0.0.1:1")
    init("nobody")
    fails(weft.DeadlineExceeded, "nothing has been published", timeout=0.5)
    fails(weft.BadInput, '"newest"', version="newest")
    for case, (tensors, kind, expected) in WRONG_TRAINERS.items():
        world.publish("offline/" + case, tensors(world))
        init("offline/" + case)
        fails(kind, expected)
    other = start("catalog")
    init("home", catalog=other.event("listening")["address"])
    other.kill()
    fails(weft.PeerLost, "catalog", version="run:0:1", timeout=5)
    assert llm.get_weight_version() == "default"
    assert generate(llm, LONG, 8) == world.answer_b


# ---- sessions ---------------------------------------------------------------

def test_an_engine_that_received_nothing_has_no_new_label(world, server):
    assert server.call("/shutdown_weight_transfer_engine")[0] == 200
    for path, body in [
            ("/start_weight_update", {}),
            ("/update_weights", {"update_info": {"version": "run:0:1"}}),
            ("/finish_weight_update", {"weight_version": "mine"})]:
        status, text = server.call(path, body)
        assert status == 500, (path, text)
        assert "init_weight_transfer_engine first" in text or (
            "start_weight_update" in text)
        assert server.label() == "run:0:1"
    assert world.init("home")[0] == 200
    assert server.call("/start_weight_update")[0] == 200
    status, text = server.call("/finish_weight_update",
                               {"weight_version": "mine"})
    assert status == 500
    assert 'without a successful update in this session: the weights are "' \
        in text.replace("\\", "")
    assert server.label() == "run:0:1"
    assert server.ask() == (200, world.answer_a)
    # vLLM leaves that session open; an update in it puts things right.
    update = {"update_info": {"version": "run:0:1"}}
    assert server.call("/update_weights", update)[0] == 200
    assert server.call("/finish_weight_update",
                       {"weight_version": "mine"})[0] == 200
    assert server.label() == "mine"


def test_one_entry_for_each_rank(world, server):
    world.publish("entries", world.b)
    assert world.init("entries")[0] == 200
    before = world.checksums()
    assert server.call("/start_weight_update")[0] == 200
    status, text = server.call("/update_weights", {"update_info": []})
    assert status == 500
    assert "update_info lists 0 ranks" in text, text
    assert (server.label(), world.checksums()) == ("run:0:1", before)
    assert server.call("/start_weight_update")[0] == 200
    update = {"update_info": [{"version": "run:0:1"}]}
    assert server.call("/update_weights", update)[0] == 200
    assert server.call("/finish_weight_update")[0] == 200
    assert server.ask() == (200, world.answer_b)


# ---- requests in flight -----------------------------------------------------

class Stream:
    """A request whose tokens come one by one; made when the first is here."""

    def __init__(self, server, prompt, tokens):
        body = server.generation(prompt, tokens) | {"stream": True}
        self.tokens, self.spans, self.finish_reason = [], [], None
        self._reply = server.open("/inference/v1/generate", body)
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._begun.wait(serving.CALL_SECONDS)

    def _read(self):
        with self._reply:
            for line in self._reply:
                if not line.startswith(b"data: {"):
                    continue
                (choice,) = json.loads(line[6:])["choices"]
                self.tokens += choice["token_ids"] or []
                self.finish_reason = choice["finish_reason"]
                self.spans = [(span["version"], span["start"], span["end"])
                              for span in choice["weight_versions"] or ()]
                self._begun.set()
        self._begun.set()

    def end(self):
        self._thread.join(serving.CALL_SECONDS)
        assert not self._thread.is_alive()
        return self


@pytest.fixture
def with_b(world, server, request):
    """The server holds A, run:0:1, and can be refitted to B, run:0:2."""
    world.publish(request.node.name, world.b, step=2)
    assert world.init(request.node.name)[0] == 200
    return server


def assert_switched(world, stream):
    """Tokens of A up to one place, and from there on exactly those that a
    fresh engine of B gives to the same beginning."""
    assert stream.finish_reason == "length"
    switch = stream.spans[0][2]
    assert stream.spans == [("run:0:1", 0, switch),
                            ("run:0:2", switch, RUNNING)]
    assert 0 < switch < RUNNING
    assert stream.tokens[:switch] == world.running_a[:switch]
    assert stream.tokens[switch:] == generate(
        world.offline, PROMPT + stream.tokens[:switch], RUNNING - switch)
    assert stream.tokens != world.running_a


def test_pause_wait_lets_a_request_finish(world, with_b):
    stream = Stream(with_b, PROMPT, RUNNING)
    assert with_b.call("/pause?mode=wait")[0] == 200
    assert stream.end().tokens == world.running_a
    assert stream.finish_reason == "length"
    assert stream.spans == [("run:0:1", 0, RUNNING)]
    assert with_b.refit("latest") == (200, "")
    assert with_b.call("/resume")[0] == 200
    assert with_b.ask() == (200, world.answer_b)


def test_pause_keep_goes_on_under_the_new_weights(world, with_b):
    stream = Stream(with_b, PROMPT, RUNNING)
    assert with_b.call("/pause?mode=keep")[0] == 200
    assert with_b.refit("latest") == (200, "")
    assert with_b.is_paused()
    assert with_b.call("/resume")[0] == 200
    assert_switched(world, stream.end())


def test_pause_abort_ends_a_request(world, with_b):
    stream = Stream(with_b, PROMPT, RUNNING)
    assert with_b.call("/pause?mode=abort")[0] == 200
    assert stream.end().finish_reason == "abort"
    assert 0 < len(stream.tokens) < RUNNING
    assert stream.tokens == world.running_a[:len(stream.tokens)]
    assert with_b.refit("latest") == (200, "")
    assert with_b.call("/resume")[0] == 200
    assert with_b.ask() == (200, world.answer_b)


def test_without_a_pause_a_step_has_one_version(world, with_b):
    stream = Stream(with_b, PROMPT, RUNNING)
    assert with_b.refit("latest") == (200, "")
    assert_switched(world, stream.end())


def test_a_torn_refit_aborts_what_runs(world, server, start):
    trainer = start_held_trainer(start, world, "torn")
    stream = Stream(server, PROMPT, RUNNING)
    refitting = Refitting(server, "run:0:1")
    trainer.event("held")
    trainer.kill()
    assert refitting.result()[0] == 500
    assert stream.end().finish_reason == "abort"
    assert stream.tokens == world.running_a[:len(stream.tokens)]
    assert_fenced(server, "publisher rank 0")


# ---- what drives and what starts an engine ----------------------------------

def test_a_trainer_that_drives_the_engine_hears_the_sentence(world, server):
    """vLLM's trainer contract, over its own HTTP client."""
    from vllm.distributed.weight_transfer.clients import (
        HTTPVLLMWeightSyncClient)

    from weft.vllm.trainer import WeftTrainer, WeftTrainerInitInfo

    def trainer_of(catalog, publisher=None):
        return WeftTrainer.trainer_init(
            WeftTrainerInitInfo(catalog=catalog, model="driven", timeout=1,
                                publisher=publisher, rank=0),
            client=HTTPVLLMWeightSyncClient(server.url))

    with pytest.raises(weft.WeftError, match="no catalog answers"):
        trainer_of("127.0.0.1:1")
    with weft.Publisher(world.catalog.address, "driven",
                        weft.tensors(world.b)) as publisher:
        trainer = trainer_of(world.catalog.address, publisher)
        with pytest.raises(weft.WeftError, match="nothing has been published"):
            trainer.send_weights()
        assert server.label() == "run:0:1"
        trainer.send_weights(step=3)
        assert server.label() == "run:0:3"
        assert server.ask() == (200, world.answer_b)
        trainer.send_weights()  # the newest, by its own name
        assert server.label() == "run:0:3"


SLEEPER = """
import sys
from vllm import LLM
from vllm.platforms import current_platform
# vLLM itself refuses on a CPU; where it does not, the plug-in does.
type(current_platform).is_sleep_mode_available = lambda self: True
LLM(sys.argv[1], skip_tokenizer_init=True, enforce_eager=True,
    dtype="bfloat16", max_model_len=256, enable_sleep_mode=True,
    weight_transfer_config={"backend": "weft"})
"""


def test_sleep_mode_is_refused_at_the_start(world):
    done = subprocess.run(
        [sys.executable, "-c", SLEEPER, str(world.folder_a)],
        capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode != 0
    assert done.stderr.strip().endswith(
        "weft.vllm.errors.EngineRefused: enable_sleep_mode gives weights other "
        "pages at wake-up, and registrations with the network die; switch it "
        "off"), done.stderr
