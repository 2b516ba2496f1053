"""Receivers that serve what they have received, from Python."""

import multiprocessing

import pytest
import weft
from test_modes import holds, publish
from test_package import PATIENCE, catalog, poisoned, weights  # noqa: F401


def engine(catalog, mode, pipe):  # noqa: F811
    """Another process. For each version that it is told: where its bytes came
    from, whether all of them are right, the digest, whether it serves."""
    mine = poisoned()
    with weft.Receiver(catalog, "m", weft.tensors(mine), mode=mode,
                       serve=True) as receiver:
        while True:
            try:
                step = pipe.recv()
            except EOFError:
                return
            for value in mine.values():
                value[...] = -7
            report = receiver.refit(f"run:0:{step}", timeout=PATIENCE)
            pipe.send(({peer["name"].split()[0] for peer in report.peers},
                       holds(mine, step), report.digest,
                       (report.serving, report.not_served)))


@pytest.fixture
def engines(catalog, request):  # noqa: F811
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(2):
        mine, its = spawn.Pipe()
        pipes.append(mine)
        processes.append(spawn.Process(target=engine,
                                       args=(catalog, request.param, its)))
        processes[-1].start()
        its.close()
    yield pipes
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


@pytest.mark.parametrize("engines", ["in-place", "shadow"], indirect=True)
def test_the_second_reads_from_the_first(catalog, engines):  # noqa: F811
    live, plain = weights(0), poisoned()
    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher:
        for step in range(3):
            publish(publisher, live, step)
            said = []
            for pipe in engines:
                pipe.send(step)
                assert pipe.poll(PATIENCE)
                said.append(pipe.recv())
            assert [each[0] for each in said] == [{"publisher"}, {"copy"}]
            assert all(each[1] for each in said), said
            assert all(each[3] == (True, "") for each in said), said
            assert said[0][2] == said[1][2]
            roles = [each["role"] for each in weft.Catalog(catalog).workers("m")
                     if each["alive"]]
            assert sorted(roles) == ["copy", "copy", "publisher", "receiver",
                                     "receiver"]
        # One that serves nobody costs no pass over its memory.
        with weft.Receiver(catalog, "m", weft.tensors(plain)) as receiver:
            report = receiver.refit(timeout=PATIENCE)
        assert report.digest == said[0][2] and holds(plain, 2)
        assert not report.serving and report.serve_seconds == 0


def test_what_has_changed_is_not_served(catalog):  # noqa: F811
    live, mine = weights(0), poisoned()

    def derive(version):
        mine["b"][0] += 1

    with weft.Publisher(catalog, "m", weft.tensors(live)) as publisher, \
            weft.Receiver(catalog, "m", weft.tensors(mine), hook=derive,
                          serve=True) as receiver:
        publish(publisher, live, 1)
        report = receiver.refit(timeout=PATIENCE)
        assert not report.serving
        assert "has changed since run:0:1" in report.not_served


def test_nobody_serves_unverified(catalog):  # noqa: F811
    with pytest.raises(weft.WeftError, match="does not verify"):
        weft.Receiver(catalog, "m", weft.tensors(poisoned()), serve=True,
                      verify=False)
