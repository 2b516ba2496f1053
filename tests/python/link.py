"""A link between two network devices: late, lossy, narrow or cut, on any kernel.

    python link.py LEFT RIGHT [--seed N]

Joins two Ethernet devices of the network namespace that it runs in: a frame that
arrives at one leaves by the other, if it is not lost. At the start nothing is late
or lost. Commands are JSON objects, one a line on standard input; a key that is not
there keeps its value.

    {"delay": 0.04}         seconds from end to end, in each direction
    {"jitter": 0.01}        up to so much more, at random; frames keep their order
    {"loss": 0.02}          the part of the frames that is lost, each by chance
    {"rate": 1e6}           bytes a second in each direction; null: no cap
    {"queue": 65536}        bytes that may wait for the cap; what comes then is lost
    {"cut": true}           nothing passes, nor what is under way; false heals
    {"cut": ["10.0.0.7"]}   nothing passes from or to these IPv4 addresses
    {"cut_after": 100000}   {"cut": true} once so many more bytes have passed, those
                            of both directions together

Each is answered by one line when it holds: "cut", and the counts of each direction.
What sends to either device must send frames of at most their MTU, with their
checksums: `send_plain_frames`.
"""

import argparse
import collections
import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import random
import select
import socket
import struct
import time

# Of the kernel's headers; Python's socket module does not name them.
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO = 0x17, 0x1F, 0x24

RECEIVE_BUFFER = 16 << 20  # frames must wait here and not be lost
BURST = 64  # frames that are read of one side before the other has its turn


@dataclasses.dataclass
class Trouble:
    """What is wrong with a link: the commands above."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float | None = None
    queue: int = 64 * 1024
    cut: bool | list = False


@dataclasses.dataclass
class Counts:
    """Frames of one direction; each that arrived is under way or in one other."""

    arrived: int = 0
    passed: int = 0
    passed_bytes: int = 0
    lost: int = 0  # by chance
    overflowed: int = 0  # the queue was full
    cut: int = 0


class Direction:
    """When each frame leaves, if ever. Has no clock and no network: `now`, in
    seconds, comes with each call and never goes back."""

    def __init__(self, trouble, chance):
        self.trouble = trouble
        self.chance = chance
        self.counts = Counts()
        self.under_way = collections.deque()  # (when it leaves, frame)
        self.idle_from = 0.0  # when the cap has let through all that it was given

    def take(self, now, frame):
        self.counts.arrived += 1
        if self._is_cut_for(frame):
            self.counts.cut += 1
        elif self.chance.random() < self.trouble.loss:
            self.counts.lost += 1
        else:
            self._queue(now, frame)

    def next_due(self):
        """When the first frame under way leaves, or None."""
        return self.under_way[0][0] if self.under_way else None

    def give(self, now):
        """The next frame that leaves by `now`, or None."""
        if not self.under_way or self.under_way[0][0] > now:
            return None
        frame = self.under_way.popleft()[1]
        self.counts.passed += 1
        self.counts.passed_bytes += len(frame)
        return frame

    def drop_under_way(self):
        """What a cut does to frames that have not arrived yet."""
        kept = [entry for entry in self.under_way if not self._is_cut_for(entry[1])]
        self.counts.cut += len(self.under_way) - len(kept)
        self.under_way = collections.deque(kept)

    def _queue(self, now, frame):
        leaves = now
        if self.trouble.rate is not None:
            begins = max(now, self.idle_from)
            waiting = (begins - now) * self.trouble.rate
            if waiting + len(frame) > self.trouble.queue:
                self.counts.overflowed += 1
                return
            leaves = self.idle_from = begins + len(frame) / self.trouble.rate
        leaves += self.trouble.delay + self.trouble.jitter * self.chance.random()
        if self.under_way:
            leaves = max(leaves, self.under_way[-1][0])
        self.under_way.append((leaves, frame))

    def _is_cut_for(self, frame):
        cut = self.trouble.cut
        return cut if isinstance(cut, bool) else not set(cut).isdisjoint(
            addresses(frame))


def addresses(frame):
    """From and to: the IPv4 addresses of an Ethernet frame, if it has any."""
    if frame[12:14] != b"\x08\x00":
        return ()
    return socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])


class Link:
    """Two directions between two open devices, and their clock."""

    def __init__(self, left, right, seed):
        self.trouble = Trouble()
        chance = random.Random(seed)
        self.ways = {name: Direction(self.trouble, chance)
                     for name in ("right", "left")}
        self.routes = [(left, self.ways["right"], right),
                       (right, self.ways["left"], left)]
        self.cut_at = None  # of the bytes that have passed

    def run(self, commands):
        """Until `commands` ends."""
        pending = b""
        while True:
            ready, _, _ = select.select([commands, *(r[0] for r in self.routes)],
                                        [], [], self._seconds_to_next())
            if commands in ready:
                read = os.read(commands, 4096)
                if not read:
                    return
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    print(json.dumps(self.obey(json.loads(line))), flush=True)
            for source, way, _ in self.routes:
                if source in ready:
                    take_burst(source, way)
            self._give_all()

    def obey(self, command):
        for key, value in command.items():
            if key == "cut_after":
                self.cut_at = self._passed_bytes() + value
            elif hasattr(self.trouble, key):
                setattr(self.trouble, key, value)
            else:
                raise ValueError(f"no such command: {key}")
        if "cut" in command:
            self.cut_at = None
            for way in self.ways.values():
                way.drop_under_way()
        return {"cut": self.trouble.cut,
                **{name: dataclasses.asdict(way.counts)
                   for name, way in self.ways.items()}}

    def _passed_bytes(self):
        return sum(way.counts.passed_bytes for way in self.ways.values())

    def _seconds_to_next(self):
        due = [way.next_due() for way in self.ways.values() if way.under_way]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _give_all(self):
        for _, way, sink in self.routes:
            now = time.monotonic()
            while (frame := way.give(now)) is not None:
                send(sink, frame)
                if self.cut_at is not None and self._passed_bytes() >= self.cut_at:
                    self.obey({"cut": True})


def take_burst(source, way):
    for _ in range(BURST):
        try:
            frame = source.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError as fault:
            if fault.errno != errno.ENETDOWN:  # told once when it is set down
                raise
            return
        way.take(time.monotonic(), frame)


def send(sink, frame):
    try:
        sink.send(frame)
    except OSError as fault:
        # As a network card does, whose cable is drawn or whose ring is full.
        if fault.errno not in (errno.ENETDOWN, errno.ENOBUFS):
            raise


def open_device(name):
    """A socket that reads what arrives at the device and sends from it."""
    device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    device.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    device.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    device.bind((name, ETH_P_ALL))
    device.setblocking(False)
    return device


def send_plain_frames(device):
    """Has the device leave no checksum and no cutting to MTU to a network card,
    which a veth device does not have: a reader would see frames of 64 KiB."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for setting in (ETHTOOL_SGSO, ETHTOOL_STSO, ETHTOOL_STXCSUM):
            value = bytearray(struct.pack("II", setting, 0))
            address = (ctypes.c_char * len(value)).from_buffer(value)
            request = struct.pack("16sP", device.encode(),
                                  ctypes.addressof(address))
            fcntl.ioctl(control, SIOCETHTOOL, request)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    link = Link(open_device(arguments.left), open_device(arguments.right),
                arguments.seed)
    print(json.dumps(link.obey({})), flush=True)
    link.run(0)


if __name__ == "__main__":
    main()
