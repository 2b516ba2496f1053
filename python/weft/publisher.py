"""The trainer's side."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from dataclasses import dataclass
from typing import Any, Iterable, Iterator

from weft import _native
from weft import memory as _memory


@dataclass(frozen=True)
class PublishReport:
    """version "RUN:EPOCH:STEP"; READY once ranks_published == ranks_expected."""

    version: str
    state: str
    ranks_published: int
    ranks_expected: int
    quantise_seconds: float
    digest_bytes: int
    digest_seconds: float
    control_seconds: float

    def __str__(self) -> str:
        return (f"published {self.version} ({self.state}, "
                f"{self.ranks_published}/{self.ranks_expected} ranks), "
                f"{self.digest_bytes / 1e6:.1f} MB digested in "
                f"{self.digest_seconds * 1e3:.1f} ms")


class Publisher:
    """One trainer rank: offers live memory to engines, version by version.

    catalog: "HOST:PORT". model: the name that engines ask for. source: has
    `placement` and `tensors()` (weft.torch.fsdp2, weft.megatron.source,
    weft.tensors). run_id, epoch: the same on all ranks; a restarted trainer
    takes a larger epoch, which fences the older one. transports: "auto", "cuda", "shm" or "ucx".
    quantise: names of checkpoint matrices that publish() also offers in block
    FP8 (128 x 128), for engines that hold them so: half the bytes cross the
    wire, for half a copy of those matrices in memory of the publisher's.
    threads: for digests; 0: as many as this process may run on, at most four.
    timeout: seconds, for this call. stream: where tensors lie on a GPU, the
    stream in which they are written (a cudaStream_t as a number,
    `torch.cuda.current_stream().cuda_stream`), instead of the default one:
    publish() waits for what it holds.

    The memory is read by peers at any time between publish() and the next
    update(). Threads: any, one after the other; no call holds the GIL while it
    waits. A fork of the process (a worker of a data loader) has no part in it:
    every call is Refused there, and the publisher lives on in its own process.
    Raises AlreadyPublished, Refused (a newer epoch runs), BadInput, PeerLost (no
    catalog), DeadlineExceeded.
    """

    def __init__(self, catalog: str, model: str, source: Any, *,
                 run_id: str = "run", epoch: int = 0, transports: str = "auto",
                 model_card: str = "", threads: int = 0, timeout: float = 30,
                 quantise: Iterable[str] = (), stream: int | None = None):
        self._source = source
        _memory.check(self._source)
        self._held = _memory.of_tensors(source.placement, source.tensors())
        placement = source.placement
        quantise = tuple(quantise)
        if quantise:
            placement = copy.deepcopy(placement)
            placement.scale(quantise)
        self._native = _native.Publisher(
            catalog, model, placement,
            _memory.addresses(self._held), run_id, epoch,
            transports, model_card, threads or _memory.default_threads(), timeout,
            stream)
        self._last_step = -1
        self._is_out = True  # nobody has to try the last step again

    @contextlib.contextmanager
    def update(self, timeout: float = 30) -> Iterator[None]:
        """Around whatever changes the weights: waits until readers have left,
        at most `timeout` seconds, then revokes the rest."""
        self.begin_update(timeout)
        yield

    def begin_update(self, timeout: float = 30) -> int:
        """As update(), for a plain call. Returns how many leases were
        revoked."""
        revoked = self._native.begin_update(timeout)
        self._is_out = True
        return revoked

    def publish(self, step: int | None = None, timeout: float = 30) -> PublishReport:
        """The memory now holds `step`: takes digests and tells the catalog.
        Default: the last one plus one; the last one again if that failed and
        there was no update since. So all ranks count alike, also those of which
        one failed. MemoryMoved if tensors have moved since the source was made;
        nothing is published then."""
        if step is None:
            step = self._last_step + 1 if self._is_out else self._last_step
        self._last_step, self._is_out = step, False
        _memory.check(self._source)
        report = PublishReport(**self._native.publish(step, timeout))
        self._is_out = True
        return report

    async def publish_async(self, step: int | None = None,
                            timeout: float = 30) -> PublishReport:
        """publish() without blocking the event loop."""
        return await asyncio.to_thread(self.publish, step, timeout)

    def health(self) -> None:
        """Raises unless the catalog holds this rank as alive."""
        self._native.health()

    def close(self) -> None:
        """Withdraws what this rank published. The memory is free afterwards: a
        call of another thread is waited for, at most until its deadline."""
        self._native.close()
        self._held = []

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_) -> None:
        self.close()
