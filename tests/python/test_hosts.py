"""Catalog, trainers and engines on hosts of their own. What slow, lossy and broken
links do is in test_bad_links.py."""

from hosts import (  # noqa: F401  (two are fixtures)
    Fleet, checkpoint, net, refit, until)
from test_processes import assert_holds


def test_weights_cross_hosts_by_tcp_alone(weft, net, checkpoint,  # noqa: F811
                                          tmp_path):
    fleet = Fleet(net, checkpoint)
    engine, = fleet.engines
    for number in range(3):
        if number:
            fleet.step(number)
        before = fleet.engine_hosts[0].received_bytes()
        event = refit(engine)
        arrived = fleet.engine_hosts[0].received_bytes() - before
        assert {peer["transport"] for peer in event["peers"]} == {"ucx"}
        assert arrived >= event["bytes"], (arrived, event)
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, number,
                     tmp_path / "out.safetensors")


def test_a_trainer_is_cut_off_for_good(weft, net, checkpoint,  # noqa: F811
                                       tmp_path):
    fleet = Fleet(net, checkpoint)
    engine, = fleet.engines
    refit(engine)
    fleet.trainer_hosts[1].cut(True)
    # The catalog misses it, and no engine is sent to it any more.
    until(lambda: [version["state"] for version in fleet.versions()],
          lambda states: states == ["GONE"])
    for process in fleet.trainers:
        process.kill()
    fleet.trainer_hosts[1].cut(False)
    # The job under the same names again, as an operator would start it.
    fleet.trainers = [fleet.trainer(rank, version="run:1:0") for rank in range(2)]
    for process in fleet.trainers:
        assert process.event()["version"] == "run:1:0"
    assert refit(engine)["version"] == "run:1:0"
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 0,
                 tmp_path / "out.safetensors")
