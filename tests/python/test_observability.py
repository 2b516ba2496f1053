"""The catalog's HTTP port, and the timeline of a refit."""

import contextlib
import json
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from test_processes import (  # noqa: F401  (fixtures)
    PATIENCE, checkpoint, publish, pull, start)


def get(address, path):
    """(status, text)."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}",
                                    timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(address):
    """{'name{labels}': value}; the text must be Prometheus's."""
    status, text = get(address, "/metrics")
    assert status == 200
    values = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+", line), line
            continue
        name, value = line.rsplit(" ", 1)
        assert re.fullmatch(r'[a-z_]+(\{([a-z]+="[^"]*",?)*\})?', name), line
        values[name] = float(value)
    return values


def await_metric(address, name, value):
    end = time.monotonic() + PATIENCE
    while (now := metrics(address).get(name, 0)) != value:
        assert time.monotonic() < end, f"{name} is {now}, not {value}"


@pytest.fixture
def catalog(start):  # noqa: F811
    """(its process, gRPC address, HTTP address)"""
    process = start("catalog", "--listen", "127.0.0.1:0", "--http",
                    "127.0.0.1:0")
    said = process.event()
    return process, said["address"], said["http"]


def test_metrics_tell_a_refit(start, catalog, checkpoint):  # noqa: F811
    process, address, http = catalog
    assert get(http, "/healthz") == (200, "ok\n")
    assert get(http, "/readyz") == (200, "ready\n")
    assert get(http, "/nothing")[0] == 404
    before = metrics(http)
    assert before["weft_catalog_store_up"] == 1
    assert before["weft_catalog_last_event"] == 0

    trainer = publish(start, address, checkpoint, "hf", 0)
    trainer.event()
    engine = pull(start, address, "vllm:tp=1", 0)
    engine.say("refit")
    assert engine.event()["event"] == "refitted"
    trainer.say("step")
    trainer.event()
    engine.say("refit")
    assert engine.event()["event"] == "refitted"

    # A call is counted when its answer is on its way.
    await_metric(http, 'weft_catalog_rpc_seconds_count{method="PublishShard"}', 2)
    now = metrics(http)
    assert now['weft_catalog_versions{model="m",state="READY"}'] == 1
    assert now['weft_catalog_versions{model="m",state="GONE"}'] == 1
    for role in ("publisher", "receiver"):
        assert now[f'weft_catalog_workers{{model="m",role="{role}",'
                   'state="alive"}'] == 1
    assert now['weft_catalog_leases{model="m"}'] == 0
    assert now['weft_catalog_rpcs_running{method="Attach"}'] == 2
    assert now['weft_catalog_rpcs_total{code="OK",method="PublishShard"}'] == 2
    assert now['weft_catalog_rpcs_running{method="PublishShard"}'] == 0
    assert now["process_resident_memory_bytes"] > 1e6
    assert now["process_open_fds"] > 3
    assert now["process_cpu_seconds_total"] > 0
    _, status = get(http, "/status")
    model, = json.loads(status)["models"]
    assert {each["state"] for each in model["workers"]} == {"alive", "serves"}

    # The counters of events come a moment after the events.
    commits = 'weft_catalog_events_total{event="committed"}'
    await_metric(http, commits, 2)
    engine.kill()
    dead = 'weft_catalog_workers{model="m",role="receiver",state="dead"}'
    await_metric(http, dead, 1)
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(PATIENCE) == 0


def test_a_store_that_is_away_is_not_ready(start, tmp_path):  # noqa: F811
    redis = pytest.importorskip("test_durable_catalog").Redis(tmp_path)
    try:
        http = start("catalog", "--listen", "127.0.0.1:0", "--http",
                     "127.0.0.1:0", "--store", redis.url).event()["http"]
        assert get(http, "/readyz")[0] == 200
    finally:
        redis.kill()
    status, reason = get(http, "/readyz")
    assert status == 503 and "redis" in reason
    assert get(http, "/healthz")[0] == 200
    assert metrics(http)["weft_catalog_store_up"] == 0


def test_a_port_that_is_taken(start, weft, catalog):  # noqa: F811
    _, _, http = catalog
    result = weft("catalog", "--listen", "127.0.0.1:0", "--http", http)
    assert result.returncode == 1
    assert "cannot serve HTTP on " + http in result.stderr
    result = weft("catalog", "--listen", "127.0.0.1:0", "--http", "nowhere")
    assert result.returncode == 1
    assert "HOST:PORT" in result.stderr


def slices(path):
    events = json.loads(path.read_text())["traceEvents"]
    assert [e["name"] for e in events if e["ph"] == "M"] == ["process_name"]
    return [event for event in events if event["ph"] == "X"]


def test_a_refit_is_drawn(start, catalog, checkpoint, tmp_path):  # noqa: F811
    _, address, _ = catalog
    trainer = publish(start, address, checkpoint, "megatron:tp=1", 0)
    trainer.event()
    path = tmp_path / "trace.json"
    engine = pull(start, address, "vllm:tp=1", 0, trace=path, inject="faults")
    engine.say("refit")
    report = engine.event()
    trainer.say("step")
    trainer.event()
    engine.say("flip")
    engine.say("refit")
    assert engine.event()["event"] == "failed"
    engine.say("quit")
    assert engine.child.wait(PATIENCE) == 0

    drawn = slices(path)
    names = [each["name"] for each in drawn]
    first, second = (each for each in drawn if each["name"] == "refit")
    for name in ("lease", "epoch words before", "move from 1 peers", "verify",
                 "epoch words after"):
        assert names.count(name) >= 2, names
    assert names.count("commit") == 1 and names.count("release") == 1
    moved = [each["args"]["bytes"] for each in drawn if "args" in each]
    assert moved[0] == report["wire_bytes"]
    # Each phase lies in one of the two refits, which follow each other.
    assert first["ts"] + first["dur"] <= second["ts"]
    for each in drawn:
        if each["name"] in ("manifests", "plan and connect"):
            continue  # the fault was armed in between
        assert any(whole["ts"] <= each["ts"] and
                   each["ts"] + each["dur"] <= whole["ts"] + whole["dur"] + 1
                   for whole in (first, second)), each
    # The first contact, once, in its parts.
    contact, = (each for each in drawn if each["name"] == "plan and connect")
    parts = [each for each in drawn
             if each["name"] in ("plan", "connect", "open", "bind")]
    parts.sort(key=lambda each: each["ts"])
    assert [each["name"] for each in parts] == ["plan", "connect", "open", "bind"]
    assert contact["ts"] <= parts[0]["ts"]
    assert parts[-1]["ts"] + parts[-1]["dur"] <= (
        contact["ts"] + contact["dur"] + 1)
    begins = [min(e["ts"] for e in drawn if e["name"] == name)
              for name in ("lease", "epoch words before", "move from 1 peers",
                           "verify", "epoch words after", "commit")]
    assert begins == sorted(begins)


def test_slow_clients_keep_nobody_waiting(start):  # noqa: F811
    """Four that sent a byte now and then took all threads for ever: probes went
    unanswered, and the catalog did not end on SIGTERM."""
    catalog = start("catalog", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    http = catalog.event()["http"]
    host, port = http.split(":")
    with contextlib.ExitStack() as slow:
        clients = [slow.enter_context(socket.create_connection((host, int(port))))
                   for _ in range(40)]
        ended = threading.Event()
        slow.callback(ended.set)

        def drip():
            while not ended.wait(0.2):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.sendall(b"a")

        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        threading.Thread(target=drip, daemon=True).start()
        assert get(http, "/healthz")[0] == 200
        catalog.child.send_signal(signal.SIGTERM)
        assert catalog.child.wait(PATIENCE) == 0
