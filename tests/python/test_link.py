"""link.py does to frames what it is told: first on a clock of the test's own, then
between hosts, judged by sockets that know nothing of it."""

import random
import socket
import threading
import time

import pytest

import link
from conftest import SEED
from hosts import inside, net, until  # noqa: F401  (net is a fixture)

PORT = 5000
PATIENCE = 60  # seconds; a bound, not an expectation


def frame_of(number, size):
    """A frame that says which one it is."""
    return number.to_bytes(4, "big") + bytes(size - 4)


def pass_through(trouble, arrivals, seed):
    """What becomes of frames that arrive at (time, size): [(when, number)], and
    the counts. The clock ticks a millisecond at a time."""
    way = link.Direction(trouble, random.Random(seed))
    passed = []
    waiting = list(enumerate(arrivals))
    for tick in range(20_000):
        now = tick / 1000
        while waiting and waiting[0][1][0] <= now:
            number, (_, size) = waiting.pop(0)
            way.take(now, frame_of(number, size))
        while (frame := way.give(now)) is not None:
            passed.append((now, int.from_bytes(frame[:4], "big")))
    assert not waiting and way.next_due() is None
    counts = way.counts
    assert counts.arrived == len(arrivals)
    assert counts.arrived == (counts.passed + counts.lost + counts.overflowed
                              + counts.cut)
    assert counts.passed == len(passed)
    return passed, counts


def random_arrivals(chance, count):
    """Some in bursts, some alone, at whole milliseconds."""
    now, arrivals = 0, []
    for _ in range(count):
        now += chance.choice([0, 0, 0, 1, 20])
        arrivals.append((now / 1000, chance.randrange(64, 1515)))
    return arrivals


@pytest.mark.parametrize("case", range(10))
def test_frames_are_late_and_in_order(case):
    chance = random.Random(SEED + case)
    trouble = link.Trouble(delay=chance.randrange(200) / 1000,
                           jitter=chance.randrange(50) / 1000)
    arrivals = random_arrivals(chance, 400)
    passed, counts = pass_through(trouble, arrivals, SEED)
    assert [number for _, number in passed] == list(range(400))
    assert counts.passed_bytes == sum(size for _, size in arrivals)
    for when, number in passed:
        late = when - arrivals[number][0]
        # A frame is seen at the next tick.
        assert trouble.delay - 1e-9 <= late <= trouble.delay + trouble.jitter + 0.0021


@pytest.mark.parametrize("case", range(10))
def test_a_cap_lets_through_its_rate_and_drops_the_tail(case):
    chance = random.Random(SEED + case)
    arrivals = random_arrivals(chance, 400)
    # Twice as much comes as it lets through, and more than the queue holds.
    came = sum(size for _, size in arrivals)
    trouble = link.Trouble(
        rate=chance.randrange(20_000, int(came / arrivals[-1][0] / 2)),
        queue=chance.randrange(3_000, 20_000))
    assert came > trouble.rate * arrivals[-1][0] + trouble.queue
    passed, counts = pass_through(trouble, arrivals, SEED)
    assert counts.lost == counts.cut == 0
    numbers = [number for _, number in passed]
    assert numbers == sorted(numbers)
    assert counts.overflowed > 0
    sizes = dict(enumerate(size for _, size in arrivals))
    # No more than the rate allows between any two frames, the first not counted.
    for first in range(0, len(passed), 7):
        sent = 0
        for when, number in passed[first + 1:]:
            sent += sizes[number]
            assert sent <= trouble.rate * (when - passed[first][0] + 0.0011)
    # Which is full when a frame is dropped: what had come and was yet to leave.
    came = {number: at for number, (at, _) in enumerate(arrivals)}
    for number in set(sizes) - set(numbers):
        at = came[number]
        held = sum(sizes[other] for when, other in passed
                   if other < number and when >= at)
        assert held + sizes[number] > trouble.queue - 1515


def test_as_many_are_lost_as_was_asked():
    passed, counts = pass_through(link.Trouble(loss=0.1), [(0, 64)] * 10_000, SEED)
    # 6 standard deviations: once in 500 million seeds.
    assert abs(counts.lost - 1000) < 180
    assert counts.lost + len(passed) == 10_000
    again, _ = pass_through(link.Trouble(loss=0.1), [(0, 64)] * 10_000, SEED)
    assert passed == again
    other, _ = pass_through(link.Trouble(loss=0.1), [(0, 64)] * 10_000, SEED + 1)
    assert passed != other


def datagrams(host):
    """A socket of the host for datagrams."""
    made = inside(host.name,
                  lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setsockopt(socket.SOL_SOCKET, link.SO_RCVBUFFORCE, 16 << 20)
    made.bind((host.address, PORT))
    made.settimeout(PATIENCE)
    return made


@pytest.fixture
def pair(net):  # noqa: F811
    """(the host behind a link, its socket, another's). They have met: no question
    for an address is under way."""
    behind, other = net.host(), net.host()
    behind.trouble()
    mine, theirs = datagrams(behind), datagrams(other)
    for one, two in ((mine, theirs), (theirs, mine)):
        one.sendto(b"hello", two.getsockname())
        assert two.recv(100) == b"hello"
    yield behind, mine, theirs
    mine.close()
    theirs.close()


def test_a_round_trip_takes_twice_the_delay(pair):
    behind, mine, theirs = pair
    behind.trouble(delay=0.05)
    for number in range(5):
        began = time.monotonic()
        mine.sendto(b"%d" % number, theirs.getsockname())
        assert theirs.recv(100) == b"%d" % number
        middle = time.monotonic()
        theirs.sendto(b"back", mine.getsockname())
        assert mine.recv(100) == b"back"
        assert middle - began >= 0.05 and time.monotonic() - middle >= 0.05


def test_what_is_lost_does_not_arrive(pair):
    behind, mine, theirs = pair
    before = behind.trouble(loss=0.1)["outward"]
    for number in range(2000):
        mine.sendto(b"%d" % number, theirs.getsockname())
        if number % 50 == 49:
            behind.trouble()  # has taken the ones before, or soon has
    counts = until(behind.trouble, lambda counts: counts["outward"]["arrived"]
                   >= before["arrived"] + 2000)["outward"]
    behind.trouble(loss=0)
    mine.sendto(b"end", theirs.getsockname())
    got = []
    while (word := theirs.recv(100)) != b"end":
        got.append(int(word))
    assert got == sorted(got)
    lost = counts["lost"] - before["lost"]
    # Some frames may be the kernel's own.
    assert abs(2000 - len(got) - lost) <= 10, (len(got), lost)
    assert 80 < lost < 320


def test_a_cut_is_silent_and_heals(pair):
    behind, mine, theirs = pair
    met = behind.trouble(delay=30)["outward"]["arrived"]
    mine.sendto(b"under way", theirs.getsockname())
    until(behind.trouble, lambda counts: counts["outward"]["arrived"] > met)
    before = behind.trouble(cut=True, delay=0)
    assert before["cut"] is True and before["outward"]["cut"] >= 1
    for _ in range(10):
        mine.sendto(b"cut", theirs.getsockname())
        theirs.sendto(b"cut", mine.getsockname())
    until(behind.trouble, lambda counts: all(
        counts[way]["cut"] >= before[way]["cut"] + 10
        for way in ("outward", "inward")))
    behind.trouble(cut=False)
    for one, two in ((mine, theirs), (theirs, mine)):
        one.sendto(b"healed", two.getsockname())
        assert two.recv(100) == b"healed"


def test_a_cut_between_two_hosts_leaves_the_third(net):  # noqa: F811
    behind, near, far = net.host(), net.host(), net.host()
    behind.trouble()
    mine, *others = [datagrams(host) for host in (behind, near, far)]
    behind.trouble(cut=[near.address])
    for word in (b"one", b"two"):
        for other in others:
            mine.sendto(word, other.getsockname())
        assert others[1].recv(100) == word
    others[1].sendto(b"back", mine.getsockname())
    others[0].sendto(b"back", mine.getsockname())
    assert mine.recvfrom(100) == (b"back", others[1].getsockname())
    behind.trouble(cut=False)
    mine.sendto(b"healed", others[0].getsockname())
    assert others[0].recv(100) == b"healed"
    for each in (mine, *others):
        each.close()


class Stream:
    """Bytes of a TCP connection from one host to another."""

    def __init__(self, source, sink, payload):
        to = (sink.address, PORT)
        listener = inside(sink.name, lambda: socket.create_server(to))
        self.sender = inside(source.name, lambda: socket.create_connection(
            to, timeout=PATIENCE))
        self.receiver, _ = listener.accept()
        self.receiver.settimeout(PATIENCE)
        listener.close()
        self.thread = threading.Thread(target=self._send, args=(payload,))

    def _send(self, payload):
        self.sender.sendall(payload)
        self.sender.shutdown(socket.SHUT_WR)

    def receive(self):
        """All that was sent, and the seconds that it took."""
        began = time.monotonic()
        self.thread.start()
        got = bytearray()
        while read := self.receiver.recv(1 << 16):
            got += read
        took = time.monotonic() - began
        self.thread.join(PATIENCE)
        return bytes(got), took

    def close(self):
        self.sender.close()
        self.receiver.close()


@pytest.mark.parametrize("outward", [True, False])
def test_a_stream_is_no_faster_than_the_cap(net, outward):  # noqa: F811
    behind, other = net.host(), net.host()
    behind.trouble(rate=2e6, queue=32 * 1024)
    payload = random.Random(SEED).randbytes(1_000_000)
    stream = Stream(*((behind, other) if outward else (other, behind)), payload)
    got, took = stream.receive()
    stream.close()
    assert got == payload
    assert took >= len(payload) / 2e6
    # What was dropped found the queue full; whether TCP fills it is TCP's affair.
    counts = behind.trouble()["outward" if outward else "inward"]
    assert counts["lost"] == counts["cut"] == 0


def test_a_full_queue_drops_what_comes(pair):
    behind, mine, theirs = pair
    # In PATIENCE seconds no more than 60 of these leave, and 10 wait.
    before = behind.trouble(rate=1000, queue=10_000)["outward"]
    for number in range(200):
        mine.sendto(number.to_bytes(2, "big") * 479, theirs.getsockname())
    counts = until(behind.trouble, lambda counts: counts["outward"]["arrived"]
                   >= before["arrived"] + 200)["outward"]
    assert counts["overflowed"] - before["overflowed"] >= 130
    assert counts["lost"] == counts["cut"] == 0


def test_a_stream_is_cut_where_it_was_asked(net):  # noqa: F811
    behind, other = net.host(), net.host()
    behind.trouble()
    payload = random.Random(SEED).randbytes(1_000_000)
    stream = Stream(behind, other, payload)
    before = behind.trouble(cut_after=30_000)
    stream.thread.start()
    after = until(behind.trouble, lambda counts: counts["cut"] is True)
    passed = sum(after[way]["passed_bytes"] - before[way]["passed_bytes"]
                 for way in ("outward", "inward"))
    assert 30_000 <= passed < 30_000 + 1515
    behind.trouble(cut=False)
    got = bytearray()
    while read := stream.receiver.recv(1 << 16):
        got += read
    stream.thread.join(PATIENCE)
    stream.close()
    assert bytes(got) == payload
