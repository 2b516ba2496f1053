"""Publishers and receivers that threads, hooks and forks of a process share."""

import gc
import os
import threading

import pytest

from test_package import (PATIENCE, catalog, numpy, poisoned,  # noqa: F401
                          weft, weights)


def is_refused(call):
    try:
        call()
    except weft.Refused:
        return True
    return False


def assert_holds(mine, step):
    for name, value in weights(step).items():
        numpy.testing.assert_array_equal(mine[name], value)


def test_close_waits_for_a_refit_of_another_thread(catalog):  # noqa: F811
    """close() freed the receiver under the thread that was in a refit of it: a
    segmentation fault, or writes to memory that was free for others."""
    in_hook, go_on = threading.Event(), threading.Event()

    def hook(_):
        in_hook.set()
        assert go_on.wait(PATIENCE)

    mine, reports = poisoned(), []
    with weft.Publisher(catalog, "m", weft.tensors(weights(0))) as publisher:
        publisher.publish(step=0)
        receiver = weft.Receiver(catalog, "m", weft.tensors(mine), hook=hook)
        refits = threading.Thread(
            target=lambda: reports.append(receiver.refit(timeout=PATIENCE)))
        refits.start()
        assert in_hook.wait(PATIENCE)
        closes = threading.Thread(target=receiver.close)
        closes.start()
        while not is_refused(lambda: receiver.fenced):
            pass  # until close() has begun
        assert closes.is_alive() and not reports
        go_on.set()
        closes.join(PATIENCE)
        refits.join(PATIENCE)
    assert [report.version for report in reports] == ["run:0:0"]
    assert_holds(mine, 0)


def test_close_ends_a_wait_for_a_version(catalog):  # noqa: F811
    errors = []
    receiver = weft.Receiver(catalog, "m", weft.tensors(poisoned()))

    def wait():
        with pytest.raises(weft.WeftError) as raised:
            receiver.refit(timeout=PATIENCE)
        errors.append(raised.value)

    waits = threading.Thread(target=wait)
    waits.start()
    receiver.close()
    waits.join(PATIENCE)
    assert "closed" in str(errors[0]), errors


def test_close_waits_for_an_update_of_another_thread(catalog):  # noqa: F811
    in_hook, go_on = threading.Event(), threading.Event()

    def hook(_):
        in_hook.set()
        assert go_on.wait(PATIENCE)

    publisher = weft.Publisher(catalog, "m", weft.tensors(weights(0)))
    publisher.publish(step=0)
    revoked = []
    with weft.Receiver(catalog, "m", weft.tensors(poisoned()),
                       hook=hook) as receiver:
        refits = threading.Thread(
            target=lambda: receiver.refit(timeout=PATIENCE))
        refits.start()
        assert in_hook.wait(PATIENCE)  # under its lease the update waits
        updates = threading.Thread(
            target=lambda: revoked.append(publisher.begin_update(PATIENCE)))
        updates.start()
        while weft.Catalog(catalog).versions()[0]["state"] == "READY":
            pass
        closes = threading.Thread(target=publisher.close)
        closes.start()
        while not is_refused(publisher.health):
            pass
        go_on.set()
        for thread in (closes, updates, refits):
            thread.join(PATIENCE)
    assert revoked == [0]


def test_a_hook_may_look_but_not_wait_for_itself(catalog):  # noqa: F811
    """A refit from a hook of a refit waited for itself for ever."""
    seen = {}

    def hook(_):
        seen["fenced"] = receiver.fenced
        seen["committed"] = receiver.committed
        seen["plan"] = receiver.explain()
        seen["refused"] = [is_refused(receiver.refit),
                           is_refused(receiver.prepare),
                           is_refused(receiver.close)]

    mine = poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(weights(0))) as publisher:
        publisher.publish(step=0)
        with weft.Receiver(catalog, "m", weft.tensors(mine),
                           hook=hook) as receiver:
            receiver.refit(timeout=PATIENCE)
            assert receiver.committed == "run:0:0"
    assert seen.pop("plan")
    assert seen == {"fenced": True, "committed": "", "refused": [True] * 3}
    assert_holds(mine, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_no_error_of_weft(catalog, error):  # noqa: F811
    failing = [True]

    def hook(_):
        if failing:
            failing.clear()
            raise error

    mine = poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(weights(0))) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine), hook=hook) as receiver:
        publisher.publish(step=0)
        with pytest.raises(error):
            receiver.refit(timeout=PATIENCE)
        assert receiver.fenced
        receiver.refit(timeout=PATIENCE)
        assert not receiver.fenced
    assert_holds(mine, 0)


def test_a_fork_has_no_part_in_its_parents_sessions(catalog):  # noqa: F811
    """The worker of a data loader closed its parent's connections, or hung at
    its end: threads are not there in a fork, and connections are shared."""
    live, mine = weights(0), poisoned()
    publisher = weft.Publisher(catalog, "m", weft.tensors(live))
    publisher.publish(step=0)
    receiver = weft.Receiver(catalog, "m", weft.tensors(mine))
    receiver.refit(timeout=PATIENCE)
    child = os.fork()
    if child == 0:
        refused = [is_refused(lambda: publisher.publish(step=9)),
                   is_refused(publisher.begin_update),
                   is_refused(receiver.refit),
                   is_refused(lambda: receiver.fenced)]
        publisher.close()
        del publisher, receiver
        gc.collect()
        os._exit(0 if all(refused) else 1)
    assert os.waitpid(child, 0) == (child, 0)
    with publisher.update():
        for name, value in weights(1).items():
            live[name][...] = value
    publisher.publish(step=1)
    assert receiver.refit(timeout=PATIENCE).version == "run:0:1"
    assert_holds(mine, 1)
    receiver.close()
    publisher.close()
