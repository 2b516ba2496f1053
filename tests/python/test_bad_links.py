"""Refits over links that are late, lossy, narrow or cut (link.py), between hosts."""

import os
import random
import time

import pytest

from conftest import SEED
from hosts import (  # noqa: F401  (two are fixtures)
    Fleet, checkpoint, net, refit, until)
from test_processes import assert_holds

LAYOUT = "vllm:tp=1"
# A catalog asks every 10 s for a sign of life, and waits 10 s for it; the last
# question may be older than the silence by what an answer takes.
NOT_GIVEN_UP_SECONDS = 9
NUM_CUTS = int(os.environ.get("WEFT_TEST_CUTS", 1))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.safetensors"


def step_and_refit(weft, fleet, number, out):  # noqa: F811
    fleet.step(number)
    for engine in fleet.engines:
        assert refit(engine)["version"] == f"run:0:{number}"
        assert_holds(weft, engine, fleet.checkpoint, LAYOUT, 0, number, out)


def heal(engine):
    """A refit of an engine with a short deadline, after a cut: TCP sends again
    what was lost in steps that double, so that the first deadlines may pass before
    it does. Or the first refit, which connects."""
    def once():
        engine.say("refit")
        event = engine.event()
        assert event["event"] in ("refitted", "failed"), event
        return event

    until(once, lambda event: event["event"] == "refitted")


def leases(fleet):
    return sum(version["leases"] for version in fleet.versions())


def lost_frames(bad_hosts):
    return sum(host.trouble()[way]["lost"] for host in bad_hosts
               for way in ("outward", "inward"))


@pytest.mark.parametrize("trouble", [
    {"delay": 0.01}, {"delay": 0.002, "jitter": 0.002, "loss": 0.02}],
    ids=["late", "lossy"])
def test_refits_over_bad_links(weft, net, checkpoint, out,  # noqa: F811
                               trouble):
    fleet = Fleet(net, checkpoint)
    bad = [*fleet.trainer_hosts, *fleet.engine_hosts]
    for host in bad:
        host.trouble(**trouble)
    refit(*fleet.engines)
    for number in (1, 2):
        step_and_refit(weft, fleet, number, out)
    if "loss" in trouble:
        assert lost_frames(bad) > 0


def test_receivers_share_a_narrow_link(weft, net, checkpoint,  # noqa: F811
                                       out):
    fleet = Fleet(net, checkpoint, num_engines=2)
    for engine in fleet.engines:
        refit(engine)
    fleet.step(1)
    rate = 1.5e6
    sent = [host.trouble(rate=rate)["outward"]["passed_bytes"]
            for host in fleet.trainer_hosts]
    before = [host.received_bytes() for host in fleet.engine_hosts]
    began = time.monotonic()
    for engine in fleet.engines:
        engine.say("poison")
        engine.say("refit")
    first, *_ = until(lambda: [index for index, engine in enumerate(fleet.engines)
                               if not engine.events.empty()], bool)
    got = [host.received_bytes() - was
           for host, was in zip(fleet.engine_hosts, before)]
    # TCP shares by its mood; nobody waits until the other has all.
    assert got[1 - first] >= got[first] / 10, got
    events = [engine.event() for engine in fleet.engines]
    # Both caps held: a trainer has half of the weights, for both engines.
    sent = [host.trouble()["outward"]["passed_bytes"] - was
            for host, was in zip(fleet.trainer_hosts, sent)]
    took = time.monotonic() - began
    assert took >= max(sent) / rate
    for engine, event in zip(fleet.engines, events):
        assert event["event"] == "refitted", event
        assert min(sent) >= 0.9 * event["bytes"], (sent, event)
        assert_holds(weft, engine, checkpoint, LAYOUT, 0, 1, out)


@pytest.mark.parametrize("who", ["engine", "trainer"])
def test_a_partition_in_mid_refit(weft, net, checkpoint, out, who):  # noqa: F811
    fleet = Fleet(net, checkpoint)
    engine = fleet.engine(0, timeout=4)  # less than NOT_GIVEN_UP_SECONDS
    host = (fleet.engine_hosts if who == "engine" else fleet.trainer_hosts)[0]
    host.trouble()
    heal(engine)
    fleet.step(1)
    engine.say("poison")
    host.trouble(cut_after=700_000)  # of 2.1 MB, half of them from each trainer
    engine.say("refit")
    failed = engine.event()
    assert failed["event"] == "failed" and failed["fenced"], failed
    assert failed["code"] == "DEADLINE_EXCEEDED"
    for word in ("publisher rank", "tensor", "refit again when the network"):
        assert word in failed["error"]
    assert host.trouble()["cut"] is True
    # Not even the catalog could be told by an engine. It is once it can be, and
    # no trainer, whose links are fine, waits for its lease.
    assert leases(fleet) == (1 if who == "engine" else 0)
    host.trouble(cut=False)
    # By itself it lasts for the rest of a minute.
    until(lambda: leases(fleet), lambda left: left == 0, patience=50)
    heal(engine)
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 1, out)
    fleet.step(2)
    heal(engine)
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 2, out)


def test_a_cut_while_the_bound_is_measured(weft, net, checkpoint,  # noqa: F811
                                           out):
    """Reads that did not end within the deadline wrote, when the link was back,
    into memory that had been given back: the engine crashed."""
    fleet = Fleet(net, checkpoint)
    engine = fleet.engine(0, timeout=8)
    host, = fleet.engine_hosts
    host.trouble()
    heal(engine)
    fleet.step(1)
    before = host.trouble()
    engine.say("poison")
    host.trouble(cut_after=4_000_000)  # 2.1 MB are weights, 6.3 MB to measure
    engine.say("refit")
    event = engine.event()
    assert event["event"] == "refitted", event
    after = host.trouble(cut=False)
    assert after["inward"]["cut"] > before["inward"]["cut"]
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 1, out)
    fleet.step(2)
    heal(engine)
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 2, out)


@pytest.mark.parametrize("who", ["engine", "trainer"])
def test_cuts_anywhere_in_a_refit(weft, net, checkpoint, out, who):  # noqa: F811
    """What is served is of one version, wherever the cut falls. WEFT_TEST_CUTS=50
    for more of them."""
    fleet = Fleet(net, checkpoint)
    engine = fleet.engine(0, timeout=2)
    host = (fleet.engine_hosts if who == "engine" else fleet.trainer_hosts)[0]
    host.trouble()
    heal(engine)
    chance = random.Random(SEED)
    # Among the epoch words, the weights, the digests and their acknowledgements.
    cuts = [4_000, *(chance.randrange(2_400_000) for _ in range(NUM_CUTS))]
    for number, cut_after in enumerate(cuts, 1):
        print(f"step {number}: cut after {cut_after} bytes")
        fleet.step(number)
        engine.say("poison")
        host.trouble(cut_after=cut_after)
        engine.say("refit")
        event = engine.event()
        host.trouble(cut=False)
        if event["event"] == "failed":
            assert event["code"] == "DEADLINE_EXCEEDED", event
            heal(engine)
        assert_holds(weft, engine, checkpoint, LAYOUT, 0, number, out)


def test_a_catalog_behind_a_bad_link(weft, net, checkpoint, out):  # noqa: F811
    fleet = Fleet(net, checkpoint)
    fleet.catalog_host.trouble(delay=0.05, jitter=0.02, loss=0.03, rate=100e3)
    refit(*fleet.engines)
    for number in range(1, 4):
        step_and_refit(weft, fleet, number, out)
    counts = fleet.catalog_host.trouble()
    # Weights do not go over it.
    assert counts["outward"]["passed_bytes"] + counts["inward"]["passed_bytes"] < 1e6


def test_trainers_out_of_sight_of_the_catalog(weft, net, checkpoint,  # noqa: F811
                                              out):
    """While engines see both sides. For a moment nothing is lost; then the catalog
    gives the trainers up, and they come back by themselves."""
    fleet = Fleet(net, checkpoint)
    engine, = fleet.engines
    refit(engine)

    def apart(are_apart):
        fleet.catalog_host.trouble(
            cut=[h.address for h in fleet.trainer_hosts] if are_apart else False)

    apart(True)
    began = time.monotonic()
    for process in fleet.trainers:
        process.say("step")  # which must wait for the catalog
    for _ in range(3):
        engine.say("poison")
        engine.say("refit")
        event = engine.event()
        if event["event"] == "failed":
            # On a machine so slow that it is more than a moment.
            assert time.monotonic() - began > NOT_GIVEN_UP_SECONDS, event
            break
        assert event["version"] == "run:0:0"
        assert_holds(weft, engine, checkpoint, LAYOUT, 0, 0, out)
    apart(False)
    for process in fleet.trainers:
        assert process.event()["version"] == "run:0:1"
    assert refit(engine)["version"] == "run:0:1"
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 1, out)

    apart(True)
    until(lambda: [version["state"] for version in fleet.versions()],
          lambda states: set(states) == {"GONE"})
    engine.say("refit run:0:1")
    failed = engine.event()
    assert failed["event"] == "failed" and "died" in failed["error"], failed
    # It asked before it touched anything.
    assert not failed["fenced"]
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 1, out)
    apart(False)
    step_and_refit(weft, fleet, 2, out)


def test_an_engine_out_of_sight_of_the_catalog(weft, net,  # noqa: F811
                                               checkpoint, out):
    """It sees the trainers, and must not read from them without a lease."""
    fleet = Fleet(net, checkpoint)
    engine = fleet.engine(0, timeout=4)
    host, = fleet.engine_hosts
    heal(engine)
    fleet.step(1)
    host.trouble(cut=[fleet.catalog_host.address])
    engine.say("refit")
    failed = engine.event()
    assert failed["event"] == "failed" and failed["code"] == "DEADLINE_EXCEEDED"
    assert f"at catalog {fleet.catalog}" in failed["error"]
    assert not failed["fenced"]
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 0, out)
    fleet.step(2)  # nobody waits for it
    host.trouble(cut=False)
    heal(engine)
    assert_holds(weft, engine, checkpoint, LAYOUT, 0, 2, out)
