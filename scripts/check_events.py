#!/usr/bin/env python3
"""Checks what a run of the real code did against the rules of model/refit.pml.

    scripts/check_events.py EVENTS... [--pull FILE]... [--publish FILE]...

EVENTS are files of `weft catalog --events` or `weft events --json`: of one
catalog, of several servers of one, or of its lives one after another. FILEs are
what `weft pull --json` and `weft publish --json` printed. Exit code 0: every
rule holds; 1: a line for each that does not; 2: a file that is no event log.
docs/observability.md lists the rules.
"""

import argparse
import collections
import json
import sys

SCHEMA = 1
# What is told of them, or what they hear too late.
ACTS_OF_THE_DEAD = {"lease-revoked", "receiver-fenced", "commit-refused",
                    "shard-lost", "copy-withdrawn"}


class NoEventLog(Exception):
    pass


def read_lines(path):
    """The JSON objects of a file. A last line that a crash has cut is none."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except ValueError:
            # A writer that is started again goes on behind what was cut.
            continue
        if isinstance(parsed, dict):
            yield number, parsed


def read_logs(paths):
    """({(log id, life): {number: event}}, [faults]) of all files together. A log
    that has lost its end goes on in another life, with numbers given before."""
    logs = {}
    faults = []
    for path in paths:
        found = False
        last = None
        life = 0
        for line, event in read_lines(path):
            if "log" not in event or "event" not in event:
                continue
            found = True
            if event.get("schema") != SCHEMA:
                raise NoEventLog(f"{path}:{line}: schema {event.get('schema')}"
                                 f" is not {SCHEMA}")
            if event["event"] == "log-restarted":
                life = life + 1 if event["log"] == last else 0
            last = event["log"]
            if "number" not in event:
                continue  # "missed": the hole shows itself
            events = logs.setdefault((event["log"], life), {})
            known = events.setdefault(event["number"], event)
            if known != event:
                faults.append(f"{path}:{line}: event {event['number']} of log "
                              f"{event['log']} was told otherwise before")
        if not found:
            raise NoEventLog(f"{path}: no event in it")
    return logs, faults


class Checker:
    """One log, event by event. `faults` are sentences."""

    def __init__(self, retire_within):
        self.retire_within_ns = retire_within * 1e9
        self.faults = []
        self.forget()
        self.whole = True  # from its first event, without a hole
        self.last_generation = 0
        self.committed = collections.Counter()  # (version, rank)
        self.ready = set()  # versions

    def forget(self):
        """What is known is void after a hole."""
        self.workers = {}
        self.versions = {}
        self.leases = {}
        self.current = {}   # model -> (run, epoch)
        self.newest = {}    # (model, run) -> epoch
        self.steps = {}     # (model, run, epoch, rank) -> step
        self.newest_ready = {}  # model -> key of a version

    def fault(self, event, text):
        self.faults.append(f"event {event['number']} ({event['event']}): {text}")

    def run(self, events):
        expected = 1
        for number in sorted(events):
            if number != expected:
                self.whole = False
                self.forget()
            expected = number + 1
            self.hear(events[number])
        if events:
            self.check_end(events[max(events)])

    def hear(self, event):
        kind = event["event"]
        worker = self.workers.get(event.get("worker"))
        if (worker and worker["life"] == "dead" and kind not in ACTS_OF_THE_DEAD):
            self.fault(event, f"worker {event['worker']} is dead or fenced, "
                              "and acts")
        handler = getattr(self, "on_" + kind.replace("-", "_"), None)
        if handler is None:
            self.fault(event, "no such kind of event")
            return
        try:
            handler(event)
        except KeyError as missing:
            self.fault(event, f"it has no field {missing}")

    # Workers.

    def on_worker_registered(self, event):
        if event["generation"] <= self.last_generation:
            self.fault(event, f"generation {event['generation']} does not grow "
                              f"from {self.last_generation}")
        self.last_generation = max(self.last_generation, event["generation"])
        self.workers[event["worker"]] = {**event, "life": "registered"}
        if event["role"] == "publisher":
            self.enter(event)

    def enter(self, event):
        model, run, epoch = event["model"], event["run"], event["epoch"]
        newest = self.newest.get((model, run), epoch)
        if epoch < newest:
            self.fault(event, f"epoch {epoch} of run {run} comes after epoch "
                              f"{newest}")
        self.newest[model, run] = max(epoch, newest)
        current = self.current.setdefault(model, (run, epoch))
        if current != (run, epoch):
            self.fault(event, f"{run}:{epoch} has not taken over from "
                              f"{current[0]}:{current[1]}")

    def on_takeover(self, event):
        self.current[event["model"]] = (event["run"], event["epoch"])
        self.enter(event)

    def live(self, event, life, *was):
        worker = self.workers.get(event["worker"])
        if worker is None:
            if self.whole:
                self.fault(event, f"worker {event['worker']} never registered")
            worker = self.workers[event["worker"]] = dict(event)
        elif worker["life"] not in was and worker["life"] != "dead":
            self.fault(event, f"worker {event['worker']} is {worker['life']}")
        worker["life"] = life

    def on_worker_attached(self, event):
        self.live(event, "attached", "registered")

    def on_worker_reattached(self, event):
        self.live(event, "attached", "attached", "orphaned")

    def on_worker_orphaned(self, event):
        self.live(event, "orphaned", "attached")

    def on_worker_died(self, event):
        self.live(event, "dead", "attached", "orphaned", "registered")

    on_worker_fenced = on_worker_died

    def on_worker_dropped(self, event):
        self.live(event, "dead", "registered")

    def check_acts(self, event, role):
        """The worker lives, is attached, and is what it must be."""
        worker = self.workers.get(event["worker"])
        if worker is None:
            if self.whole:
                self.fault(event, f"worker {event['worker']} never registered")
            return
        if worker["life"] == "registered":
            self.fault(event, f"worker {event['worker']} is not attached")
        if event["role"] != role or worker["role"] != role:
            self.fault(event, f"worker {event['worker']} is no {role}")
        if worker["model"] != event["model"]:
            self.fault(event, f"worker {event['worker']} is of model "
                              f"{worker['model']}")

    # Versions.

    def version(self, event):
        """Its record; one that was never heard of is unknown after a hole."""
        key = event["model"], event["version"]
        if key not in self.versions:
            self.versions[key] = {
                "state": "none" if self.whole else "unknown",
                "shards": {}, "copies": set(), "leases": set(), "since": 0}
        found = self.versions[key]
        if found["state"] == "gone":
            self.fault(event, f"version {event['version']} is GONE already")
        return found

    def check_state(self, event, version, *allowed):
        if version["state"] not in allowed + ("unknown", "gone"):
            self.fault(event, f"version {event['version']} is "
                              f"{version['state'].upper()}")

    def check_sources(self, event, version):
        for rank, worker_id in version["shards"].items():
            worker = self.workers.get(worker_id)
            if worker and worker["life"] == "dead":
                self.fault(event, f"rank {rank} of version {event['version']} "
                                  "is dead")

        if (version["state"] in ("ready", "retiring") and self.whole and
                not version["shards"] and not version["copies"]):
            self.fault(event, f"nobody holds version {event['version']}")

    def on_shard_published(self, event):
        self.check_acts(event, "publisher")
        version = self.version(event)
        self.check_state(event, version, "none", "staging")
        run, epoch, step = event["version"].rsplit(":", 2)
        current = self.current.setdefault(event["model"], (run, int(epoch)))
        if current != (run, int(epoch)):
            self.fault(event, f"the current epoch is {current[0]}:{current[1]}")
        key = event["model"], run, epoch, event["rank"]
        if int(step) <= self.steps.get(key, -1):
            self.fault(event, f"step {step} of rank {event['rank']} does not "
                              f"grow from {self.steps[key]}")
        self.steps[key] = int(step)
        version["shards"][event["rank"]] = event["worker"]

    def on_shard_lost(self, event):
        version = self.version(event)
        self.check_state(event, version, "ready")
        worker = self.workers.get(event["worker"])
        if worker and worker["life"] != "dead":
            self.fault(event, f"worker {event['worker']} lives")
        source = version["shards"].pop(event["rank"], None)
        if source != event["worker"] and (source or self.whole):
            self.fault(event, f"rank {event['rank']} of version "
                              f"{event['version']} is of worker {source}")

    def on_copy_published(self, event):
        self.check_acts(event, "copy")
        version = self.version(event)
        self.check_state(event, version, "ready")
        version["copies"].add(event["worker"])

    def on_copy_withdrawn(self, event):
        version = self.version(event)
        self.check_state(event, version, "ready", "retiring")
        if event["worker"] not in version["copies"] and self.whole:
            self.fault(event, f"worker {event['worker']} is no copy of "
                              f"{event['version']}")
        version["copies"].discard(event["worker"])

    def on_version_staging(self, event):
        version = self.version(event)
        self.check_state(event, version, "none")
        version["state"] = "staging"

    def on_version_ready(self, event):
        version = self.version(event)
        self.check_state(event, version, "none", "staging")
        wanted = set(range(event["ranks_expected"]))
        missing = wanted - set(version["shards"])
        if missing and version["state"] != "unknown":
            self.fault(event, f"ranks {sorted(missing)} of version "
                              f"{event['version']} were not published")
        self.check_sources(event, version)
        before = self.newest_ready.get(event["model"])
        if before and self.versions[before]["state"] == "ready":
            self.fault(event, f"version {before[1]} is READY too")
        self.newest_ready[event["model"]] = event["model"], event["version"]
        version["state"] = "ready"
        self.ready.add(event["version"])

    def on_version_retiring(self, event):
        version = self.version(event)
        self.check_state(event, version, "staging", "ready")
        version["state"] = "retiring"
        version["since"] = event["unix_ns"]

    def on_version_gone(self, event):
        version = self.version(event)
        self.check_state(event, version, "staging", "ready", "retiring")
        if version["leases"]:
            self.fault(event, f"version {event['version']} is leased: "
                              f"{sorted(version['leases'])}")
        version["state"] = "gone"

    # Leases.

    def on_lease_acquired(self, event):
        self.check_acts(event, "receiver")
        version = self.version(event)
        self.check_state(event, version, "ready")
        self.check_sources(event, version)
        if event["lease"] in self.leases:
            self.fault(event, f"lease {event['lease']} exists already")
        self.leases[event["lease"]] = {**event, "state": "held"}
        version["leases"].add(event["lease"])

    def lease(self, event, *allowed):
        lease = self.leases.get(event["lease"])
        if lease is None:
            if self.whole:
                self.fault(event, f"lease {event['lease']} was never acquired")
            return None
        if lease["state"] not in allowed:
            self.fault(event, f"lease {event['lease']} is {lease['state']}")
        if lease["worker"] != event["worker"]:
            self.fault(event, f"lease {event['lease']} is of worker "
                              f"{lease['worker']}")
        if event.get("version", lease["version"]) != lease["version"]:
            self.fault(event, f"lease {event['lease']} is of version "
                              f"{lease['version']}")
        return lease

    def end(self, event, state):
        lease = self.lease(event, "held")
        if lease is None:
            return
        lease["state"] = state
        key = lease["model"], lease["version"]
        self.versions[key]["leases"].discard(event["lease"])

    def on_committed(self, event):
        self.check_acts(event, "receiver")
        version = self.version(event)
        self.check_state(event, version, "ready", "retiring")
        self.check_sources(event, version)
        self.lease(event, "held")
        self.committed[event["version"], event["rank"]] += 1

    def on_lease_released(self, event):
        self.check_acts(event, "receiver")
        self.end(event, "released")

    def on_lease_revoked(self, event):
        self.end(event, "revoked")

    def on_commit_refused(self, event):
        self.lease(event, "revoked")

    def on_receiver_fenced(self, event):
        if "lease" in event:
            self.lease(event, "held", "revoked")
        else:
            self.check_acts(event, "receiver")

    def on_serving(self, event):
        self.check_acts(event, "receiver")
        own = [lease for lease in self.leases.values()
               if lease["worker"] == event["worker"]]
        received = any(lease["version"] == event["version"] and
                       lease["state"] == "released" for lease in own)
        if not own:
            return  # registered anew: it received that under its former name
        if self.whole and not received:
            self.fault(event, f"worker {event['worker']} has not received "
                              f"{event['version']} under a lease")
        self.committed[event["version"], event["rank"]] += 1

    def check_end(self, last):
        for (_, name), version in self.versions.items():
            waited = last["unix_ns"] - version["since"]
            if version["state"] == "retiring" and waited > self.retire_within_ns:
                self.fault(last, f"version {name} is RETIRING for "
                                 f"{waited / 1e9:.0f} s and not GONE")


def check_pulls(paths, checkers):
    """What receivers say they serve, the catalog has as committed."""
    faults = []
    committed = sum((c.committed for c in checkers), collections.Counter())
    served = collections.Counter()
    for path in paths:
        fenced = True
        for line, said in read_lines(path):
            if said.get("event") == "refitted":
                fenced = False
                served[said["version"], said["rank"]] += 1
            elif said.get("event") == "failed":
                fenced = said["fenced"]
            elif said.get("event") == "saved" and fenced:
                faults.append(f"{path}:{line}: a fenced receiver serves")
    for (version, rank), times in sorted(served.items()):
        if times > committed[version, rank]:
            faults.append(
                f"receivers of rank {rank} say {times} times that they serve "
                f"{version}, the catalog has {committed[version, rank]} commits")
    return faults


def check_publishers(paths, checkers):
    faults = []
    ready = set().union(*(c.ready for c in checkers)) if checkers else set()
    for path in paths:
        for line, said in read_lines(path):
            if (said.get("event") == "published" and said["state"] == "READY"
                    and said["version"] not in ready):
                faults.append(f"{path}:{line}: version {said['version']} was "
                              "never READY in the catalog")
    return faults


def check(paths, pulls=(), publishers=(), retire_within=60):
    """(faults, number of events, whether the logs are whole)."""
    logs, faults = read_logs(paths)
    checkers = []
    for (log, _), events in sorted(logs.items()):
        checker = Checker(retire_within)
        checker.run(events)
        checkers.append(checker)
        faults += [f"log {log}: {fault}" for fault in checker.faults]
    whole = all(checker.whole for checker in checkers)
    if whole:
        faults += check_pulls(pulls, checkers)
        faults += check_publishers(publishers, checkers)
    return faults, sum(len(events) for events in logs.values()), whole


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("events", nargs="+", metavar="EVENTS")
    parser.add_argument("--pull", action="append", default=[], metavar="FILE")
    parser.add_argument("--publish", action="append", default=[],
                        metavar="FILE")
    parser.add_argument("--retire-within", type=float, default=60,
                        metavar="SECONDS",
                        help="longest that a version may be RETIRING (60)")
    args = parser.parse_args()
    try:
        faults, count, whole = check(args.events, args.pull, args.publish,
                                     args.retire_within)
    except (NoEventLog, OSError, KeyError, TypeError) as error:
        print(f"check_events: {error}", file=sys.stderr)
        return 2
    for fault in faults:
        print(fault)
    holes = "" if whole else (
        ", with holes: what came before them was not known, --pull and "
        "--publish were not compared")
    print(f"{count} events, {len(faults)} faults{holes}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
