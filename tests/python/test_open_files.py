"""Each worker of a catalog is a connection, and each connection an open file.

`weft catalog` kept the limit that it was started with, 1,024 on most machines,
so that a fleet of more workers was not let in.
"""

import json
import re
import resource
import socket
import subprocess

import pytest

from conftest import BINARY

FEW = 64
CONNECTIONS = 300


@pytest.fixture
def catalog_with():
    """catalog_with(soft, hard): (its process, its address), with these limits."""
    started = []

    def start(soft, hard):
        process = subprocess.Popen(
            [BINARY, "catalog", "--listen", "127.0.0.1:0", "--http", "none",
             "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE,
                                                  (soft, hard)))
        started.append(process)
        return process, json.loads(process.stdout.readline())["address"]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_more_connections_than_the_limit_it_was_started_with(catalog_with, weft):
    process, address = catalog_with(FEW, 4096)
    host, port = address.rsplit(":", 1)
    held = [socket.create_connection((host, int(port)), timeout=20)
            for _ in range(CONNECTIONS)]
    result = weft("status", "--catalog", address)
    assert result.returncode == 0, result.stderr
    for each in held:
        each.close()


def test_a_limit_that_cannot_be_raised_is_said(catalog_with):
    process, _ = catalog_with(FEW, 1024)
    # It says so before it heeds signals.
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert re.search(r"may open 1024 files.*ulimit -n", said), said
