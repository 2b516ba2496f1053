"""Event logs: what the checker refuses, and what a real run writes."""

import copy
import json
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from conftest import BINARY
from test_processes import (  # noqa: F401  (fixtures)
    PATIENCE, checkpoint, publish, pull, start)

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import check_events  # noqa: E402


class Log:
    """A log by hand; each method adds one event."""

    def __init__(self):
        self.events = []
        self.generation = 100

    def add(self, event, **fields):
        number = len(self.events) + 1
        self.events.append({"schema": 1, "log": 7, "number": number,
                            "unix_ns": number * 1_000_000, "event": event,
                            "model": "m", **fields})

    def join(self, worker, role, rank, epoch=0):
        self.generation += 1
        who = {"worker": worker, "generation": self.generation, "role": role,
               "rank": rank}
        if role == "publisher":
            who.update(run="run", epoch=epoch, ranks_expected=2)
        self.add("worker-registered", **who)
        self.add("worker-attached", **who)
        return who

    def of(self, event, who, version, **fields):
        run, epoch, _ = version.split(":")
        self.add(event, **{**who, "version": version, "run": run,
                           "epoch": int(epoch), **fields})

    def ready(self, ranks, version):
        """Two publishers publish it one after the other."""
        self.of("shard-published", ranks[0], version, ranks_published=1)
        self.of("version-staging", ranks[0], version, ranks_published=1)
        self.of("shard-published", ranks[1], version, ranks_published=2)
        self.of("version-ready", ranks[1], version, ranks_published=2)


def good_log():
    """Two publishers, two steps, one engine; the second step takes its time."""
    log = Log()
    ranks = [log.join("w1", "publisher", 0), log.join("w2", "publisher", 1)]
    engine = log.join("w3", "receiver", 0)
    version = "run:0:1"
    log.ready(ranks, version)
    log.of("lease-acquired", engine, version, lease="l1")
    log.of("version-retiring", ranks[0], version, reason="updates")
    log.of("committed", engine, version, lease="l1")
    log.of("lease-released", engine, version, lease="l1")
    log.add("version-gone", version=version, ranks_expected=2)
    version = "run:0:2"
    log.ready(ranks, version)
    log.of("lease-acquired", engine, version, lease="l2")
    log.of("version-retiring", ranks[0], version, reason="updates")
    log.of("lease-revoked", engine, version, lease="l2", reason="late")
    log.add("version-gone", version=version, ranks_expected=2)
    log.of("commit-refused", engine, version, lease="l2", reason="late")
    log.of("receiver-fenced", engine, version, lease="l2", reason="torn")
    log.of("serving", engine, "run:0:1")
    log.add("takeover", run="run", epoch=1, reason="epoch 1 has taken over")
    log.add("worker-fenced", **ranks[0])
    log.add("worker-fenced", **ranks[1])
    log.join("w4", "publisher", 0, epoch=1)
    log.add("worker-died", **engine, reason="died")
    return log.events


def log_with_replicas():
    """Of two that hold the same one dies, and the other one stands in."""
    log = Log()
    ranks = [log.join("w1", "publisher", 0), log.join("w2", "publisher", 1)]
    engine = log.join("w3", "receiver", 0)
    version = "run:0:1"
    log.ready(ranks, version)
    log.of("lease-acquired", engine, version, lease="l1")
    log.add("worker-died", **ranks[0], reason="died")
    log.of("shard-lost", ranks[0], version)
    log.of("committed", engine, version, lease="l1")
    log.of("lease-released", engine, version, lease="l1")
    return log.events


def log_with_copies():
    """All publishers die, and a copy stands in for them."""
    log = Log()
    ranks = [log.join("w1", "publisher", 0), log.join("w2", "publisher", 1)]
    engine = log.join("w3", "receiver", 0)
    stand_in = log.join("w4", "copy", 0)
    version = "run:0:1"
    log.ready(ranks, version)
    log.of("copy-published", stand_in, version)
    for rank in ranks:
        log.add("worker-died", **rank, reason="died")
        log.of("shard-lost", rank, version)
    log.of("lease-acquired", engine, version, lease="l1")
    log.of("committed", engine, version, lease="l1")
    log.of("lease-released", engine, version, lease="l1")
    log.of("copy-withdrawn", stand_in, version)
    log.add("version-gone", version=version, ranks_expected=2)
    return log.events


def write(path, events):
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def faults_of(tmp_path, events, **more):
    return check_events.check([write(tmp_path / "events", events)], **more)


def renumbered(events):
    return [{**event, "number": number}
            for number, event in enumerate(events, 1)]


def find(events, kind, nth=0):
    return [i for i, event in enumerate(events) if event["event"] == kind][nth]


def without(kind, nth=0):
    def mutate(events):
        del events[find(events, kind, nth)]
        return events
    return mutate


def moved(kind, nth, before, before_nth):
    def mutate(events):
        event = events.pop(find(events, kind, nth))
        events.insert(find(events, before, before_nth), event)
        return events
    return mutate


def changed(kind, nth, **fields):
    def mutate(events):
        events[find(events, kind, nth)].update(fields)
        return events
    return mutate


def copied(kind, nth, **fields):
    """The same event once more, at the end of the log."""
    def mutate(events):
        again = copy.deepcopy(events[find(events, kind, nth)])
        again.update(fields)
        return [*events, again]
    return mutate


MUTANTS = {
    "commit of a version that is not READY":
        (moved("committed", 0, "version-ready", 0), "is STAGING"),
    "commit without a lease":
        (moved("lease-released", 0, "committed", 0), "is released"),
    "commit by another worker":
        (changed("committed", 0, worker="w1", role="publisher"),
         "is no receiver"),
    "commit after the lease was revoked":
        (changed("commit-refused", 0, event="committed"), "is revoked"),
    "commit of another version than was leased":
        (changed("committed", 0, version="run:0:9"), "is of version run:0:1"),
    "READY without a shard":
        (without("shard-published", 1), "ranks [1] of version run:0:1"),
    "READY by one rank twice":
        (changed("shard-published", 1, rank=0), "does not grow"),
    "two READY versions":
        (changed("version-gone", 0, version="run:0:0"), "is leased|run:0:0"),
    "an older epoch registers":
        (copied("worker-registered", 0, worker="w9", generation=900),
         "comes after epoch 1"),
    "an epoch that has not taken over":
        (without("takeover"), "has not taken over"),
    "a step that does not grow":
        (changed("shard-published", 2, version="run:0:1"), "does not grow"),
    "a fenced publisher publishes":
        (copied("shard-published", 0, version="run:0:3"), "dead or fenced"),
    "a dead receiver commits":
        (copied("committed", 0), "dead or fenced"),
    "a receiver serves what it has not received":
        (changed("serving", 0, version="run:0:2"), "has not received"),
    "a lease of a version that is RETIRING":
        (moved("version-retiring", 0, "lease-acquired", 0), "is RETIRING"),
    "a lease of a version whose source is dead":
        (moved("worker-fenced", 0, "lease-acquired", 1), "is dead"),
    "a version that never stops RETIRING":
        (lambda events: [*events[:find(events, "version-gone")],
                         *events[find(events, "worker-fenced"):-1],
                         {**events[-1], "unix_ns": 10**12}], "and not GONE"),
    "a lease after GONE":
        (copied("lease-acquired", 0, lease="l9", worker="w5"),
         "GONE already"),
    "READY after GONE":
        (copied("version-ready", 0), "GONE already"),
    "GONE under a lease":
        (without("lease-released"), "is leased"),
    "a lease released twice":
        (copied("lease-released", 0), "is released"),
    "a lease that nobody acquired":
        (without("lease-acquired"), "never acquired"),
    "a worker that never registered":
        (without("worker-registered", 2), "never registered"),
    "a worker that is not attached":
        (without("worker-attached", 1), "is not attached"),
    "a generation that does not grow":
        (changed("worker-registered", 2, generation=101), "does not grow"),
    "an event that does not exist":
        (changed("version-staging", 0, event="version-steady"), "no such kind"),
}


def test_a_good_log_is_good(tmp_path):
    faults, count, whole = faults_of(tmp_path, good_log())
    assert (faults, count, whole) == ([], len(good_log()), True)


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_is_checked(tmp_path, name):
    mutate, words = MUTANTS[name]
    events = renumbered(mutate(good_log()))
    faults, _, _ = faults_of(tmp_path, events)
    assert any(word in fault for fault in faults for word in words.split("|")), (
        faults)


@pytest.mark.parametrize("mutate, words", [
    (lambda events: events, ""),
    # The commit of what has lost a source that nobody stands in for.
    (without("shard-lost"), "rank 0 of version run:0:1 is dead"),
    (without("worker-died"), "worker w1 lives"),
    (changed("shard-lost", 0, rank=1), "is of worker w2"),
    (copied("shard-lost", 0), "is of worker None"),
])
def test_a_replica_stands_in(tmp_path, mutate, words):
    faults, _, _ = faults_of(tmp_path,
                             renumbered(mutate(log_with_replicas())))
    assert any(words in fault for fault in faults) if words else faults == []


@pytest.mark.parametrize("mutate, words", [
    (lambda events: events, ""),
    (without("copy-published"), "nobody holds version run:0:1"),
    (moved("copy-withdrawn", 0, "lease-acquired", 0), "nobody holds version"),
    (moved("copy-published", 0, "version-ready", 0), "is STAGING|is NONE"),
    (changed("copy-published", 0, role="receiver"), "is no copy"),
    (changed("copy-withdrawn", 0, worker="w9"), "is no copy of run:0:1"),
])
def test_a_copy_stands_in(tmp_path, mutate, words):
    faults, _, _ = faults_of(tmp_path, renumbered(mutate(log_with_copies())))
    assert any(word in fault for fault in faults
               for word in words.split("|")) if words else faults == []


def test_servers_of_one_catalog_may_not_differ(tmp_path):
    events = good_log()
    one = write(tmp_path / "one", events[:9])
    two = write(tmp_path / "two", events[5:])
    assert check_events.check([one, two]) == ([], len(events), True)
    events[7]["worker"] = "w9"
    faults, _, _ = check_events.check([one, write(two, events[5:])])
    assert any("told otherwise" in fault for fault in faults)


def test_a_log_may_lose_its_end(tmp_path):
    events = good_log()
    restarted = {"schema": 1, "log": 7, "event": "log-restarted"}
    again = [{**event, "unix_ns": 5} for event in events[-4:]]
    faults, _, whole = faults_of(tmp_path, [*events, restarted, *again])
    assert faults == [] and not whole
    faults, _, _ = faults_of(tmp_path, [*events, *again])
    assert len(faults) == 4


def test_a_log_with_a_hole_is_checked_as_far_as_it_goes(tmp_path):
    events = good_log()
    del events[2:9]
    faults, _, whole = faults_of(tmp_path, events)
    assert faults == [] and not whole
    late = find(events, "commit-refused")
    events[late] = {**events[find(events, "version-gone", -1)],
                    "number": events[late]["number"]}
    faults, _, _ = faults_of(tmp_path, events)
    assert len(faults) == 1 and "GONE already" in faults[0]


def test_a_cut_line_is_none(tmp_path):
    path = write(tmp_path / "events", good_log())
    with path.open("a") as file:
        file.write('{"schema": 1, "log": 7, "num')
    assert check_events.check([path])[0] == []


def test_what_receivers_and_publishers_say_is_compared(tmp_path):
    served = {"event": "refitted", "rank": 0, "version": "run:0:1"}
    pulled = write(tmp_path / "pull", [served, {"event": "saved"}])
    published = write(tmp_path / "publish", [
        {"event": "published", "version": "run:0:2", "state": "READY"}])
    assert faults_of(tmp_path, good_log(), pulls=[pulled],
                     publishers=[published])[0] == []
    write(pulled, [served] * 3)
    assert "3 times" in faults_of(tmp_path, good_log(), pulls=[pulled])[0][0]
    write(pulled, [served, {"event": "failed", "fenced": True},
                   {"event": "saved"}])
    assert "a fenced receiver serves" in faults_of(
        tmp_path, good_log(), pulls=[pulled])[0][0]
    write(published, [{"event": "published", "version": "run:0:3",
                       "state": "READY"}])
    assert "never READY" in faults_of(
        tmp_path, good_log(), publishers=[published])[0][0]


def test_the_command_line(tmp_path):
    script = check_events.__file__

    def run(*args):
        return subprocess.run([sys.executable, script, *map(str, args)],
                              capture_output=True, text=True)

    good = write(tmp_path / "good", good_log())
    assert run(good).returncode == 0
    bad = write(tmp_path / "bad", renumbered(without("takeover")(good_log())))
    assert run(bad).returncode == 1
    assert run(tmp_path / "absent").returncode == 2
    other = write(tmp_path / "other",
                  [{**event, "schema": 2} for event in good_log()])
    assert run(other).returncode == 2


# Real processes.


def follow(start, catalog, *more):  # noqa: F811
    return start("events", "--catalog", catalog, "--follow", "--since", 0, *more)


def await_event(process, kind, **fields):
    while True:
        event = process.event()
        if event["event"] == kind and fields.items() <= event.items():
            return event


def test_a_run_writes_what_the_checker_accepts(start, checkpoint,  # noqa: F811
                                               tmp_path):
    path = tmp_path / "events.jsonl"
    server = start("catalog", "--listen", "127.0.0.1:0", "--events", path,
                   "--http", "none")
    catalog = server.event()["address"]
    events = follow(start, catalog)
    trainers = [publish(start, catalog, checkpoint, "megatron:tp=2", rank)
                for rank in range(2)]
    said = [[], []]
    for process in trainers:
        said[0].append(process.event())
    engine = pull(start, catalog, "vllm:tp=1", 0)
    for step in range(3):
        if step:
            for process in trainers:
                process.say("step")
            said[0] += [process.event() for process in trainers]
        engine.say("refit")
        said[1].append(engine.event())
        assert said[1][-1]["version"] == f"run:0:{step}"
        await_event(events, "committed", version=f"run:0:{step}", rank=0)
    trainers[1].kill()
    gone = await_event(events, "version-gone", version="run:0:2")
    assert gone["reason"] == ("publisher rank 1 died or lost its connection; "
                              "the next step heals it")
    engine.kill()
    await_event(events, "worker-died", role="receiver")

    status = subprocess.run(
        [str(BINARY), "status", "--catalog", catalog, "--json"],
        capture_output=True, text=True, timeout=PATIENCE, check=True)
    model, = json.loads(status.stdout)["models"]
    states = {each["version"]: each["state"] for each in model["versions"]}
    assert states["run:0:2"] == "GONE"
    dead = [each for each in model["workers"] if not each["alive"]]
    assert {each["death_reason"] for each in dead} == {
        "publisher rank 1 died or lost its connection",
        "receiver rank 0 died or lost its connection"}

    server.child.send_signal(signal.SIGTERM)
    assert server.child.wait(PATIENCE) == 0
    faults, count, whole = check_events.check(
        [path], [write(tmp_path / "pull", said[1])],
        [write(tmp_path / "publish", said[0])])
    assert faults == [] and whole
    # The follower was told what the file holds.
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == count
    assert lines[-1]["event"] in ("worker-died", "version-gone")


def test_status_says_who_holds_what(start, checkpoint):  # noqa: F811
    catalog = start("catalog", "--listen", "127.0.0.1:0", "--http",
                    "none").event()["address"]
    trainer = publish(start, catalog, checkpoint, "hf", 0)
    trainer.event()
    watch = start("status", "--catalog", catalog, "--watch")
    assert watch.event()["models"][0]["versions"][0]["state"] == "READY"
    engine = pull(start, catalog, "vllm:tp=1", 0, inject="faults")
    engine.say("refit")
    engine.event()
    acquired = await_event(watch, "lease-acquired")
    assert acquired["version"] == "run:0:0"
    await_event(watch, "committed")
    await_event(watch, "lease-released")
    # The next transfer hangs: its lease is seen. What is dropped is planned
    # under a lease of its own.
    trainer.say("step")
    trainer.event()
    engine.say("drop")
    await_event(watch, "lease-released")
    engine.say("refit")
    held = await_event(watch, "lease-acquired")
    status = subprocess.run(
        [str(BINARY), "status", "--catalog", catalog, "--json"],
        capture_output=True, text=True, timeout=PATIENCE, check=True)
    model, = json.loads(status.stdout)["models"]
    lease, = model["leases"]
    assert lease["lease"] == held["lease"]
    assert lease["worker"] == held["worker"]
    screen = subprocess.run(
        [str(BINARY), "status", "--catalog", catalog],
        capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert re.search(rf"rank 0 \({held['worker']}, \d+ s left\)", screen)
    watch.child.send_signal(signal.SIGINT)
    assert watch.child.wait(PATIENCE) == 0


def test_a_catalog_on_redis_goes_on_with_its_log(start, checkpoint,  # noqa: F811
                                                 tmp_path):
    redis = pytest.importorskip("test_durable_catalog").Redis(tmp_path)
    try:
        files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]

        def serve(path):
            process = start("catalog", "--listen", "127.0.0.1:0", "--store",
                            redis.url, "--events", path, "--http", "none")
            return process, process.event()["address"]

        (one, first), (_, second) = serve(files[0]), serve(files[1])
        both = f"{first},{second}"
        trainer = publish(start, both, checkpoint, "hf", 0)
        trainer.event()
        engine = pull(start, both, "vllm:tp=1", 0)
        engine.say("refit")
        assert engine.event()["event"] == "refitted"
        one.kill()
        trainer.say("step")
        trainer.event()
        engine.say("refit")
        assert engine.event()["event"] == "refitted"
        _, third = serve(files[0])
        events = follow(start, third)
        await_event(events, "committed", version="run:0:1")
        trainer.kill()
        await_event(events, "version-gone", version="run:0:1")
        faults, count, whole = check_events.check(files)
        assert faults == [] and whole and count > 10
        # Of the server that was killed: each event once, none left out.
        numbers = [json.loads(line)["number"]
                   for line in files[0].read_text().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1))
    finally:
        redis.kill()
