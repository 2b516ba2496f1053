"""What a catalog refuses, as exceptions: by who asks, and by how often."""

import contextlib
import json
import subprocess

import pytest

from conftest import BINARY

weft = pytest.importorskip("weft")
numpy = pytest.importorskip("numpy")

PATIENCE = 240


@contextlib.contextmanager
def catalog(*options):
    """The program `weft catalog` with these options: its address."""
    child = subprocess.Popen(
        [str(BINARY), "catalog", "--listen", "127.0.0.1:0", "--json", *options],
        stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(child.stdout.readline())["address"]
    finally:
        child.terminate()
        child.wait(PATIENCE)
        child.stdout.close()


def weights():
    return weft.tensors({"a": numpy.zeros((4, 4), numpy.float32)})


def test_a_client_that_calls_too_often_has_reached_a_limit():
    with catalog("--max-calls", "1") as address:
        client = weft.Catalog(address)
        with pytest.raises(weft.LimitReached, match="--max-calls") as refused:
            for _ in range(50):
                client.versions()
        assert "try again after" in str(refused.value)
        assert not isinstance(refused.value, MemoryError)
        # So does a session.
        with pytest.raises(weft.LimitReached, match="calls a second"):
            for _ in range(50):
                weft.Publisher(address, "m", weights())


def test_a_budget_of_memory_is_no_limit_of_the_catalog():
    with weft.CatalogServer() as server, pytest.raises(weft.OutOfMemory) as short:
        weft.Receiver(server.address, "m", weights(), mode="shadow",
                      shadow_bytes=8)
    assert isinstance(short.value, MemoryError)


def test_a_catalog_that_wants_tokens(tmp_path, monkeypatch):
    tokens = tmp_path / "tokens"
    tokens.write_text("receive engine the-token-of-the-engine\n")
    tokens.chmod(0o600)
    monkeypatch.setenv("WEFT_INSECURE_TOKENS", "1")
    with catalog("--tokens", str(tokens), "--insecure-tokens") as address:
        with pytest.raises(weft.AccessDenied, match="wants a token"):
            weft.Catalog(address).versions()
        monkeypatch.setenv("WEFT_TOKEN", "not-the-token-of-anybody")
        with pytest.raises(weft.AccessDenied, match="not one that"):
            weft.Catalog(address).versions()
        monkeypatch.setenv("WEFT_TOKEN", "the-token-of-the-engine")
        assert weft.Catalog(address).versions() == []
        with pytest.raises(weft.AccessDenied, match="may receive") as denied:
            weft.Publisher(address, "m", weights())
        assert isinstance(denied.value, PermissionError)
