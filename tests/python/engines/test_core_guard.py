"""The engine core's part with several ranks, on vLLM's own EngineCore class
over workers that only remember: what one rank does that another does not."""

import types

import pytest

import weft
from weft.vllm import core_guard, plugin


class Worker:
    """As core_guard sees a worker of vLLM; `fails` is raised by updates."""

    def __init__(self, rank):
        self.rank = rank
        self.worker = self
        self.weight_transfer_engine = self
        self.fenced_reason = ""
        self.committed = ""
        self.fails = None
        self._weight_update_active = False

    def reset_weight_update_target(self):
        pass

    def start_weight_update(self):
        if self._weight_update_active:
            raise RuntimeError("a weight update is already active")
        self._weight_update_active = True

    def update_weights(self, update_info):
        if self.fails is not None:
            self._weight_update_active = False
            raise self.fails
        if isinstance(update_info, list):
            update_info = update_info[2 + self.rank]  # of replica 1
        self.fenced_reason = ""
        self.committed = update_info["version"]

    def finish_weight_update(self):
        self._weight_update_active = False


class Executor:
    """Calls rank after rank; one that raises ends the call, as in vLLM."""

    def __init__(self, workers):
        self.workers = workers

    def collective_rpc(self, method, timeout, args, kwargs):
        return [method(worker, *args, **(kwargs or {}))
                for worker in self.workers]


@pytest.fixture
def core():
    from vllm.v1.core.sched.interface import PauseState
    from vllm.v1.engine.core import EngineCore

    plugin.register()
    made = object.__new__(EngineCore)  # no model, no scheduler of its own
    made.vllm_config = types.SimpleNamespace(
        weight_transfer_config=types.SimpleNamespace(backend="weft"),
        parallel_config=types.SimpleNamespace(data_parallel_index=1,
                                              world_size=2))
    made.workers = [Worker(0), Worker(1)]
    made.model_executor = Executor(made.workers)
    made.scheduler = types.SimpleNamespace(pause_state=PauseState.UNPAUSED)
    made.scheduler.set_pause_state = lambda state: setattr(
        made.scheduler, "pause_state", state)
    made.scheduler.finish_requests = lambda *_: []
    made.resets = 0

    def reset():
        made.resets += 1

    made._reset_caches = reset
    made._finish_pause = lambda clear_cache: None
    made._weight_version = "default"
    return made


def refit(core, *versions):
    core.collective_rpc("start_weight_update")
    core.collective_rpc("update_weights", kwargs={"update_info": {
        "version": versions[0]} if len(versions) == 1 else [
            {"version": version} for version in versions]})
    core.collective_rpc("finish_weight_update")


def test_a_success_drops_caches_and_sets_the_label(core):
    refit(core, "run:0:1")
    assert (core.resets, core.get_weight_version()) == (1, "run:0:1")


def test_failures_of_all_ranks_are_told(core):
    first, second = core.workers
    first.fails = weft.PeerLost("publisher rank 0 is lost")
    second.fails = weft.DigestMismatch('"lm_head" differs')
    first.fenced_reason = "torn by rank 0"
    second.fenced_reason = "torn by rank 1"
    with pytest.raises(weft.PeerLost, match='^rank 0: publisher rank 0 is lost; '
                                            'rank 1: "lm_head" differs$'):
        refit(core, "run:0:1")
    assert core_guard.fence_of(core) == (
        "rank 0: torn by rank 0; rank 1: torn by rank 1")
    assert (core.resets, core.get_weight_version()) == (0, "fenced")
    with pytest.raises(weft.WeftError, match="engine is fenced"):
        core.resume_scheduler()
    with pytest.raises(weft.WeftError, match="engine is fenced"):
        core.set_weight_version("mine")
    first.fails = second.fails = None
    refit(core, "run:0:2")
    assert core_guard.fence_of(core) == ""
    assert core.get_weight_version() == "run:0:2"
    assert not core.is_scheduler_paused()


def test_one_sentence_when_all_ranks_say_the_same(core):
    for worker in core.workers:
        worker.fails = weft.DeadlineExceeded("nothing has been published")
    with pytest.raises(weft.DeadlineExceeded, match="^nothing has been"):
        refit(core, "run:0:1")
    assert core_guard.fence_of(core) == ""
    assert core.get_weight_version() == "default"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_alone_with_new_weights_is_fenced_and_heals(core, failing):
    refit(core, "run:0:1")
    core.workers[failing].fails = weft.DeadlineExceeded("too late")
    with pytest.raises(weft.DeadlineExceeded,
                       match=f"^rank {failing}: too late$"):
        refit(core, "run:0:2")
    assert core_guard.fence_of(core).startswith(
        "ranks hold different versions: rank 0 run:0:")
    # The rank that succeeded does not refuse the next start.
    core.workers[failing].fails = None
    refit(core, "run:0:2")
    assert core_guard.fence_of(core) == ""
    assert core.get_weight_version() == "run:0:2"


def test_ranks_that_took_different_versions_are_fenced(core):
    with pytest.raises(weft.WeftError,
                       match="ranks hold different versions: rank 0 run:0:2, "
                             "rank 1 run:0:3; update again"):
        refit(core, "run:0:0", "run:0:1", "run:0:2", "run:0:3")
    assert core.get_weight_version() == "fenced"


def test_a_start_refused_by_one_rank_leaves_none_started(core):
    core.workers[1]._weight_update_active = True
    with pytest.raises(RuntimeError, match="^rank 1: a weight update is"):
        core.collective_rpc("start_weight_update")
    refit(core, "run:0:1")


def test_a_session_that_nobody_finished_ends_at_the_next_start(core):
    update = {"update_info": {"version": "run:0:1"}}
    core.collective_rpc("start_weight_update")
    with pytest.raises(RuntimeError, match="already active"):
        core.collective_rpc("start_weight_update")
    core.collective_rpc("update_weights", kwargs=update)
    refit(core, "run:0:2")  # another replica failed, and its driver with it
    assert core.get_weight_version() == "run:0:2"


def test_a_list_that_is_too_short(core):
    core.collective_rpc("start_weight_update")
    with pytest.raises(weft.BadInput, match="lists 3 ranks, data-parallel "
                                            "replica 1 takes the entries from "
                                            "2 to 3"):
        core.collective_rpc("update_weights", kwargs={
            "update_info": [{"version": "run:0:1"}] * 3})
    assert [worker.committed for worker in core.workers] == ["", ""]
    refit(core, "run:0:1")  # that session has ended


def test_caches_that_cannot_be_dropped_fence(core):
    def fail():
        raise RuntimeError("connector is away")

    core._reset_caches = fail
    with pytest.raises(weft.WeftError, match="caches of old weights could not "
                                             "be dropped: connector is away"):
        refit(core, "run:0:1")
    assert core.get_weight_version() == "fenced"
