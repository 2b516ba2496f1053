"""Receivers that keep a second set of buffers or a state file, as processes that
are killed."""

import time

import pytest

from test_processes import (  # noqa: F401 (fixtures)
    PATIENCE, assert_holds, await_listed, catalog, checkpoint, publish, pull,
    start, wait_for_lease)


def step_of(trainer, step):
    trainer.say("step")
    assert trainer.event()["version"] == f"run:0:{step}"


def refit_to(engine, step):
    engine.say(f"refit run:0:{step}")
    report = engine.event()
    assert report["event"] == "refitted", report
    assert report["unrecorded"] == ""
    return report


def the_receiver(weft, catalog):
    """What the catalog says of the one that lives, once it has seen the others
    die."""
    def living(listed):
        return [w for w in listed if w["role"] == "receiver" and w["alive"]]

    one, = living(await_listed(weft, "workers", catalog,
                               lambda listed: len(living(listed)) == 1))
    return one


def fields(path):
    """The lines of a state file, split at the first space."""
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def wait_until_dirty(path):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if path.exists() and fields(path)["state"] == "dirty":
            return
    pytest.fail("the state file never became dirty")


@pytest.mark.parametrize("transport", ["shm", "ucx"])
def test_a_shadow_serves_rolls_back_and_survives_a_torn_transfer(
        weft, start, catalog, checkpoint, tmp_path, transport):
    layout, out = "vllm:tp=2", tmp_path / "out.safetensors"
    trainer = publish(start, catalog, checkpoint, "hf", 0, transport)
    trainer.event()
    engine = pull(start, catalog, layout, 1, transport, mode="shadow",
                  inject="faults")
    assert refit_to(engine, 0)["bytes_copied"] > 0
    step_of(trainer, 1)
    assert refit_to(engine, 1)["pause_seconds"] > 0
    for step in (0, 1, 0):
        engine.say("rollback")
        assert engine.event()["version"] == f"run:0:{step}"
        assert_holds(weft, engine, checkpoint, layout, 1, step, out)
        assert the_receiver(weft, catalog)["committed"] == f"run:0:{step}"
    engine.say("flip")
    engine.say("refit")
    failed = engine.event()
    assert failed["code"] == "DATA_LOSS"
    assert not failed["fenced"]
    assert_holds(weft, engine, checkpoint, layout, 1, 0, out)
    engine.say("rollback")
    assert "no previous version" in engine.event()["error"]
    refit_to(engine, 1)
    assert_holds(weft, engine, checkpoint, layout, 1, 1, out)


def test_an_engine_killed_in_mid_transfer_is_known_to_be_torn(
        weft, start, catalog, checkpoint, tmp_path):
    state, out = tmp_path / "rank0.state", tmp_path / "out.safetensors"
    publish(start, catalog, checkpoint, "hf", 0).event()
    engine = pull(start, catalog, "vllm:tp=1", 0, inject="faults", state=state)
    engine.say("drop")
    engine.say("refit")
    wait_until_dirty(state)
    engine.kill()
    assert fields(state)["version"] == "run:0:0"
    assert fields(state)["pid"] == str(engine.child.pid)

    engine = pull(start, catalog, "vllm:tp=1", 0, state=state)
    engine.say(f"save {out}")
    refused = engine.event()
    assert refused["fenced"]
    assert "run:0:0 and did not commit it" in refused["fenced_reason"]
    reason = the_receiver(weft, catalog)["fenced_reason"]
    assert reason == refused["fenced_reason"]
    refit_to(engine, 0)
    assert fields(state)["state"] == "committed"
    assert the_receiver(weft, catalog)["fenced_reason"] == ""
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 0, out)


def test_a_shadow_killed_in_mid_transfer_is_not_torn(
        weft, start, catalog, checkpoint, tmp_path):
    state = tmp_path / "rank0.state"
    trainer = publish(start, catalog, checkpoint, "hf", 0)
    trainer.event()
    engine = pull(start, catalog, "vllm:tp=1", 0, mode="shadow",
                  inject="faults", state=state)
    refit_to(engine, 0)
    before = state.read_bytes()
    step_of(trainer, 1)
    engine.say("drop")
    engine.say("refit")
    wait_for_lease(weft, catalog)
    engine.kill()
    assert state.read_bytes() == before
    assert fields(state)["state"] == "committed"


def test_what_cannot_be_is_refused(weft, start, catalog, checkpoint, tmp_path):
    publish(start, catalog, checkpoint, "hf", 0).event()
    state = tmp_path / "foreign.state"
    state.write_text("not a state file\n")
    common = ["pull", "--catalog", catalog, "--model", "m", "--layout",
              "vllm:tp=1", "--rank", 0, "--out", tmp_path / "out.safetensors"]
    foreign = weft(*common, "--state", state)
    assert foreign.returncode == 1
    assert str(state) in foreign.stderr and "remove it" in foreign.stderr
    assert state.read_text() == "not a state file\n"
    small = weft(*common, "--mode", "shadow", "--shadow-bytes", 1000)
    assert small.returncode == 1
    assert "its budget is 1000 bytes" in small.stderr
    assert not (tmp_path / "out.safetensors").exists()
