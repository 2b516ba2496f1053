"""Shadow mode, rollback, the state file and resumption, from Python."""

import numpy
import pytest
import weft
from test_package import PATIENCE, catalog, poisoned, weights  # noqa: F401


def publish(publisher, live, step):
    with publisher.update():
        for name, value in weights(step).items():
            live[name][...] = value
    publisher.publish(step)


def holds(mine, step):
    return all(numpy.array_equal(mine[name], value)
               for name, value in weights(step).items())


def test_shadow_serves_while_it_receives(catalog):  # noqa: F811
    live, mine = weights(0), poisoned()
    seen = []
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(
                catalog, "m", weft.tensors(mine), mode="shadow",
                pause=lambda: seen.append(("pause", holds(mine, step - 1))),
                resume=lambda: seen.append(("resume", holds(mine, step)))
            ) as receiver:
        for step in range(1, 4):
            publish(publisher, live, step)
            report = receiver.refit(timeout=PATIENCE)
            assert holds(mine, step)
            assert report.pause_seconds > 0
            assert report.bytes_copied >= report.bytes
        assert seen == [("pause", False), ("resume", True),
                        ("pause", True), ("resume", True),
                        ("pause", True), ("resume", True)]
        step = 2
        back = receiver.rollback(timeout=PATIENCE)
        assert back.version == receiver.committed == "run:0:2"
        assert holds(mine, 2)


def test_a_lower_step_is_refused_if_told_to(catalog):  # noqa: F811
    live, mine = weights(0), poisoned()
    with weft.Receiver(catalog, "m", weft.tensors(mine), mode="shadow",
                       refuse_lower_step=True) as receiver:
        with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher:
            for step in (6, 7):
                publish(publisher, live, step)
                receiver.refit(timeout=PATIENCE)
        with weft.Publisher(catalog, "m", weft.tensors(live),
                            epoch=1) as publisher:
            publish(publisher, live, 5)
            with pytest.raises(weft.Refused, match="step 5 is lower than step "
                                                   "7 of run:0:7"):
                receiver.refit(timeout=PATIENCE)
            assert holds(mine, 7) and not receiver.fenced
            # A rollback is asked for by whoever holds the receiver.
            assert receiver.rollback(timeout=PATIENCE).version == "run:0:6"
            assert holds(mine, 6)
            publish(publisher, live, 6)
            assert receiver.refit(timeout=PATIENCE).version == "run:1:6"


def test_what_shadow_may_take_is_said(catalog):  # noqa: F811
    mine = poisoned()
    with pytest.raises(weft.WeftError, match="its budget is 1000 bytes"):
        weft.Receiver(catalog, "m", weft.tensors(mine), mode="shadow",
                      shadow_bytes=1000)


def test_a_torn_engine_knows_and_resumes(catalog, tmp_path):  # noqa: F811
    live, mine = weights(0), poisoned()
    state = tmp_path / "rank0.state"

    def fails(version):
        raise RuntimeError("no derived tensors today")

    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher:
        publish(publisher, live, 4)
        with weft.Receiver(catalog, "m", weft.tensors(mine), state_file=state,
                           hook=fails) as receiver, \
                pytest.raises(weft.WeftError, match="no derived tensors"):
            receiver.refit(timeout=PATIENCE)
        mine["b"][...] = -7  # a part of what had arrived is lost
        with weft.Receiver(catalog, "m", weft.tensors(mine), state_file=state,
                           resume_interrupted=True) as receiver:
            assert receiver.fenced
            assert "run:0:4" in receiver.fenced_reason
            report = receiver.refit(timeout=PATIENCE)
            assert holds(mine, 4) and not receiver.fenced
            assert report.bytes_resumed == mine["a"].nbytes
    state.write_bytes(b"anything")
    with pytest.raises(weft.WeftError, match="rank0.state"):
        weft.Receiver(catalog, "m", weft.tensors(mine), state_file=state)
