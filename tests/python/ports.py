"""Ports for servers that are started later, and again at the same place."""

import contextlib
import pathlib
import random
import socket


def free_port():
    """One of 127.0.0.1 that nobody has now, and that the kernel gives to nobody
    meanwhile."""
    lowest_given = int(pathlib.Path(
        "/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(lowest_given // 2, lowest_given)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
