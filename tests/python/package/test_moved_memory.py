"""Tensors that are replaced between refits: the old memory is neither published
nor received into as if it were theirs."""

import pytest

from test_package import (PATIENCE, catalog, numpy, poisoned,  # noqa: F401
                          weft, weights)


class WithStorage:
    """As torch's: the tensor stays, its memory may be another."""

    def __init__(self, array):
        self.use(array)
        self.dtype, self.shape = array.dtype, array.shape

    def use(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__

    @property
    def nbytes(self):
        return self.array.nbytes


def replaced(tensors):
    tensors["b"] = numpy.zeros(5, numpy.float32)


def gone(tensors):
    del tensors["b"]


def moved(tensors):
    tensors["b"].use(numpy.zeros(5, numpy.float32))


@pytest.mark.parametrize("change", [replaced, gone, moved])
def test_a_trainer_does_not_publish_what_it_no_longer_trains(
        catalog, change):  # noqa: F811
    """`weights["b"] = weights["b"] - gradient` published the first step's bytes
    for ever, each time as a new version."""
    live, mine = weights(0), poisoned()
    live["b"] = WithStorage(live["b"])
    kept = live["b"].array
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine)) as receiver:
        publisher.publish(step=0)
        receiver.refit(timeout=PATIENCE)
        numpy.testing.assert_array_equal(mine["b"], kept)
        with publisher.update():
            change(live)
        with pytest.raises(weft.MemoryMoved, match='"b"'):
            publisher.publish(step=1)
        assert [each["state"] for each in weft.Catalog(catalog).versions()] == [
            "GONE"]


@pytest.mark.parametrize("change", [replaced, gone, moved])
def test_an_engine_does_not_receive_into_what_it_no_longer_serves(
        catalog, change):  # noqa: F811
    live, mine = weights(0), poisoned()
    mine["b"] = WithStorage(mine["b"])
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine)) as receiver:
        publisher.publish(step=0)
        receiver.refit(timeout=PATIENCE)
        change(mine)
        with pytest.raises(weft.MemoryMoved, match='"b"'):
            receiver.refit(timeout=PATIENCE)


def test_a_mapping_may_make_its_tensors_anew(catalog):  # noqa: F811
    class Views(dict):
        def get(self, name, default=None):
            value = super().get(name, default)
            return value if value is None else value[...]

        def __getitem__(self, name):
            return super().__getitem__(name)[...]

    live, mine = weights(0), poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(Views(live))) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine)) as receiver:
        with publisher.update():
            live["b"] += 1
        publisher.publish()
        receiver.refit(timeout=PATIENCE)
        numpy.testing.assert_array_equal(mine["b"], live["b"])


def test_a_rank_that_failed_counts_on_with_the_others(catalog):  # noqa: F811
    """Its next step was one that the other ranks had left behind: no version
    was READY any more."""
    live, mine = weights(0), poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine)) as receiver:
        assert publisher.publish().version.endswith(":0")
        with publisher.update():
            kept = live.pop("b")
        for _ in range(2):  # the same step again
            with pytest.raises(weft.MemoryMoved):
                publisher.publish()
        live["b"] = kept
        assert publisher.publish().version.endswith(":1")
        with publisher.update():
            live.pop("b")
        with pytest.raises(weft.MemoryMoved):
            publisher.publish()
        live["b"] = kept
        with publisher.update():
            live["b"] += 1
        assert publisher.publish().version.endswith(":3")
        receiver.refit(timeout=PATIENCE)
        numpy.testing.assert_array_equal(mine["b"], live["b"])
