"""The catalog: who publishes which version of which model."""

from __future__ import annotations

from weft import _native


class CatalogServer:
    """A catalog in this process, kept in memory; the program `weft catalog` is
    the same as a process of its own.

    listen: "HOST:PORT"; port 0 picks a free one, see `address`."""

    def __init__(self, listen: str = "127.0.0.1:0"):
        self._server = _native.CatalogServer(listen)
        self.address = f"{listen.rpartition(':')[0]}:{self._server.port}"

    def close(self) -> None:
        """Ends every call and stream; all attached workers are dead then."""
        self._server.close()

    def __enter__(self) -> CatalogServer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Catalog:
    """Reads what a catalog knows. PeerLost if none answers at `address`."""

    def __init__(self, address: str, timeout: float = 10):
        self._client = _native.CatalogClient(address, timeout)

    def versions(self, model: str = "", timeout: float = 10) -> list[dict]:
        """Versions of a model (of all if empty): model, version, state,
        reason, ranks_published, ranks_expected, leases."""
        return self._client.versions(model, timeout)

    def workers(self, model: str = "", timeout: float = 10) -> list[dict]:
        """Publishers and receivers: role, layout, rank, alive, committed,
        fenced_reason, ..."""
        return self._client.workers(model, timeout)
