"""Sources killed in mid-refit: a replica or the trainer takes over."""

import pytest

from test_processes import (  # noqa: F401  (fixtures)
    CALL_SECONDS, assert_holds, await_listed, catalog, checkpoint, listing,
    publish, pull, start, wait_for_lease)

REPLICAS = "fsdp:shard=2,replicate=2"


def refitted(process):
    report = process.event()
    assert report["event"] == "refitted", report
    return report


@pytest.mark.parametrize("transport", ["shm", "ucx"])
def test_a_replica_stands_in_for_a_publisher_killed_in_mid_transfer(
        weft, start, catalog, checkpoint, tmp_path, transport):  # noqa: F811
    trainers = [publish(start, catalog, checkpoint, REPLICAS, rank, transport)
                for rank in range(4)]
    for process in trainers:
        process.event()
    engine = pull(start, catalog, "vllm:tp=1", 0, transport, inject="faults")
    engine.say("refit")
    victim = refitted(engine)["peers"][0]["rank"]
    engine.say("poison")
    engine.say(f"drop publisher rank {victim}")  # its transfer never ends
    engine.say("refit run:0:0")
    wait_for_lease(weft, catalog)
    trainers[victim].kill()
    report = refitted(engine)
    [lost] = report["replaced"]
    assert lost["source"] == f"publisher rank {victim}"
    assert lost["by"] == [f"publisher rank {(victim + 2) % 4}"]
    out = tmp_path / "out.safetensors"
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 0, out)
    [version] = listing(weft, "versions", catalog)
    assert version["state"] == "READY"

    # The last one of its kind takes the version with it.
    trainers[(victim + 2) % 4].kill()
    await_listed(weft, "versions", catalog, lambda listed: [
        (each["version"], each["state"]) for each in listed] == [
            ("run:0:0", "GONE")])


def test_a_copy_killed_in_mid_transfer(weft, start, catalog, checkpoint,  # noqa: F811
                                       tmp_path):
    trainer = publish(start, catalog, checkpoint, "hf", 0)
    trainer.event()
    copy = start("pull", "--catalog", catalog, "--model", "m", "--layout",
                 "vllm:tp=1", "--rank", 0, "--serve", "--timeout", CALL_SECONDS)
    first = refitted(copy)
    assert first["serving"], first["not_served"]
    assert [w["role"] for w in listing(weft, "workers", catalog)] == [
        "publisher", "receiver", "copy"]

    engines = [pull(start, catalog, "vllm:tp=1", 0, inject="faults")
               for _ in range(2)]
    engines[0].say("refit")
    report = refitted(engines[0])
    assert [peer["name"].split()[0] for peer in report["peers"]] == ["copy"]
    assert report["digest"] == first["digest"]

    engines[1].say("drop copy")
    engines[1].say("refit")
    wait_for_lease(weft, catalog)
    copy.kill()
    report = refitted(engines[1])
    [lost] = report["replaced"]
    assert lost["source"].startswith("copy ")
    assert lost["by"] == ["publisher rank 0"]
    assert report["digest"] == first["digest"]
    for index, engine in enumerate(engines):
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 0,
                     tmp_path / f"{index}.safetensors")
    [version] = listing(weft, "versions", catalog)
    assert version["state"] == "READY"


def test_who_would_serve_nobody_says_so_and_ends(weft, start, catalog,  # noqa: F811
                                                 checkpoint, tmp_path):
    publish(start, catalog, checkpoint, "hf", 0).event()
    out = tmp_path / "out.safetensors"
    done = weft("pull", "--catalog", catalog, "--model", "m", "--layout",
                "vllm:tp=1,quant=fp8-channel", "--rank", 0, "--serve", "--out", out,
                "--timeout", CALL_SECONDS)
    assert done.returncode == 1
    assert "it would serve nobody: this receiver cannot serve what it holds" in (
        done.stderr)
    assert out.exists()


@pytest.mark.parametrize("layout", ["fsdp:shard=2", "megatron:tp=1,pp=2"])
def test_engines_feed_each_other_when_the_trainers_are_gone(
        weft, start, catalog, checkpoint, tmp_path, layout):  # noqa: F811
    trainers = [publish(start, catalog, checkpoint, layout, rank)
                for rank in range(2)]
    for process in trainers:
        process.event()
    first = start("pull", "--catalog", catalog, "--model", "m", "--layout",
                  "vllm:tp=1", "--rank", 0, "--serve", "--timeout", CALL_SECONDS)
    served = refitted(first)
    assert served["serving"], served["not_served"]
    for process in trainers:
        process.kill()
    await_listed(weft, "workers", catalog, lambda listed: [
        (each["role"], each["alive"], each["holds"]) for each in listed] == [
            ("publisher", False, ""), ("receiver", True, "run:0:0"),
            ("copy", True, "run:0:0"), ("publisher", False, "")])
    [version] = listing(weft, "versions", catalog)
    assert version["state"] == "READY"

    status = weft("status", "--catalog", catalog).stdout
    assert "2 of 2 publishers gone, others hold what they held" in status

    # Engines of other layouts, that never saw a trainer.
    for index, (layout, rank) in enumerate([("vllm:tp=2", 1), ("hf", 0),
                                            ("vllm:tp=1", 0)]):
        engine = pull(start, catalog, layout, rank)
        engine.say("refit")
        report = refitted(engine)
        assert {p["name"].split()[0] for p in report["peers"]} == {"copy"}
        assert_holds(weft, engine, checkpoint, layout, rank, 0,
                     tmp_path / f"{index}.safetensors")
    assert report["digest"] == served["digest"]

    first.kill()
    await_listed(weft, "versions", catalog, lambda listed: [
        (each["version"], each["state"]) for each in listed] == [
            ("run:0:0", "GONE")])


@pytest.mark.parametrize("mode", ["in-place", "shadow"])
def test_engines_serve_the_versions_that_follow(weft, start, catalog,  # noqa: F811
                                                checkpoint, tmp_path, mode):
    trainers = [publish(start, catalog, checkpoint, "fsdp:shard=2", rank)
                for rank in range(2)]
    for process in trainers:
        process.event()
    engines = [start("pull", "--catalog", catalog, "--model", "m", "--layout",
                     "vllm:tp=1", "--rank", 0, "--serve", "--mode", mode, "--control",
                     "stdin", "--timeout", CALL_SECONDS) for _ in range(3)]
    for step in range(3):
        if step:
            for process in trainers:
                process.say("step")
            for process in trainers:
                assert process.event()["version"] == f"run:0:{step}"
        names = []
        for index, engine in enumerate(engines):
            engine.say("poison")
            engine.say(f"refit run:0:{step}")
            report = refitted(engine)
            assert report["serving"], report["not_served"]
            assert report["replaced"] == []
            names.append({p["name"].split()[0] for p in report["peers"]})
            assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, step,
                         tmp_path / f"{step}-{index}.safetensors")
        assert names == [{"publisher"}, {"copy"}, {"copy"}]
