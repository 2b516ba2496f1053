"""The engine's side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Callable

from weft import _native
from weft import memory as _memory


@dataclass(frozen=True)
class RefitReport:
    """One committed refit. Bytes and seconds; `digest` is the same for the
    same received bytes, whatever the layouts. print(report) is for a person."""

    version: str
    bytes: int
    wire_bytes: int
    seconds: float
    transfer_seconds: float
    verify_seconds: float
    quantise_seconds: float
    control_seconds: float
    bound_bytes_per_second: float
    bound: str
    tiles_checked: int
    digest: str
    planned: bool
    manifests_fetched: int
    moves: int
    runs: int
    zero_fill_bytes: int
    staging_peak_bytes: int
    peers: list[dict] = field(default_factory=list)
    conversions: list[dict] = field(default_factory=list)
    bytes_resumed: int = 0
    pause_seconds: float = 0
    bytes_copied: int = 0
    unrecorded: str = ""
    # Sources that were lost on the way, and who took over what they held.
    replaced: list[dict] = field(default_factory=list)
    # Empty, or how many tensors are published of which the target's model knows
    # nothing.
    not_taken: str = ""
    # With serve=True: whether others may read what was received, or why not;
    # seconds after the commit, not in `seconds`.
    serving: bool = False
    not_served: str = ""
    serve_seconds: float = 0

    @property
    def bytes_per_second(self) -> float:
        """Of the transfer, on the wire."""
        if self.transfer_seconds == 0:
            return 0.0
        return self.wire_bytes / self.transfer_seconds

    @property
    def ratio(self) -> float:
        """bytes_per_second over the bound that was measured with it."""
        if self.bound_bytes_per_second == 0:
            return 0.0
        return self.bytes_per_second / self.bound_bytes_per_second

    def __str__(self) -> str:
        ways = sorted({("mapped " if p["mapped"] else "") + p["transport"]
                       for p in self.peers})
        bound = (f", bound {self.bound_bytes_per_second / 1e9:.2f} GB/s "
                 f"({self.bound}), ratio {self.ratio:.2f}"
                 if self.bound_bytes_per_second else "")
        return (f"refit to {self.version}: {self.bytes / 1e6:.1f} MB from "
                f"{len(self.peers)} peers by {', '.join(ways)} in "
                f"{self.seconds * 1e3:.1f} ms "
                f"({self.bytes_per_second / 1e9:.2f} GB/s{bound}); "
                f"{self.tiles_checked} tiles verified")


@dataclass(frozen=True)
class RollbackReport:
    """What is live now, and how long the engine stood still for it."""

    version: str
    seconds: float
    pause_seconds: float
    bytes_copied: int
    unrecorded: str


class Receiver:
    """One engine rank: brings live memory to a version, as a transaction.

    target: has `placement` and `tensors()`; its memory is written in place and
    must not move. If it has `known_tensors`, the names of all tensors of its
    model, a trainer with more tensors in one of that model's modules is
    refused; tensors in modules of their own (a value head, layers for
    speculation, the layers of a deeper model) are not taken, and `not_taken` of
    the report says so. refuse_unknown_tensors refuses them, too. hook: called with the version after the digests agreed and before
    the commit (refresh what is derived from weights); if it raises, the
    receiver stays fenced. staging_bytes: all that posted access may use beside
    the target's memory. threads: one drives the wire, the others digest and
    convert what has arrived; 0: as many as this process may run on, at most
    four. stream: where tensors lie on a GPU, the stream in which the engine
    reads them: a refit begins after what it holds. The rest as for Publisher.

    mode: "in-place", or "shadow": versions arrive in a second set of buffers (at
    most shadow_bytes) while the first one serves; then pause() is called, the
    contents change places, hook runs, resume() is called, and rollback() goes
    back. state_file: keeps on disk whether the memory may be torn, one file a
    rank. resume_interrupted: a refit to the version that the last one was about
    moves only what does not lie in place. docs/receiver.md says all of it.

    serve: after each commit let receivers that come later read this memory, as
    well as the trainer's, until the next refit or the trainer's next update; do
    not write to it in between. Costs one pass over it for digests. The report's
    `serving` says whether it came to that, `not_served` why not
    (docs/fan_out.md).

    refuse_lower_step: a version of the same run whose step is lower than that
    of the last commit raises Refused and changes nothing: the trainer may have
    lost its checkpoint. rollback() goes back all the same.

    From the first byte of a refit until its commit the receiver is `fenced`:
    its memory may be torn and must not serve. A refit that fails leaves it
    fenced; the next one that commits heals it.
    """

    def __init__(self, catalog: str, model: str, target: Any, *,
                 transports: str = "auto", staging_bytes: int = 64 << 20,
                 threads: int = 0, verify: bool = True,
                 measure_bound: bool = False,
                 hook: Callable[[str], Any] | None = None, timeout: float = 30,
                 stream: int | None = None, mode: str = "in-place",
                 shadow_bytes: int | None = None,
                 pause: Callable[[], Any] | None = None,
                 resume: Callable[[], Any] | None = None,
                 state_file: str = "", resume_interrupted: bool = False,
                 serve: bool = False, refuse_lower_step: bool = False,
                 refuse_unknown_tensors: bool = False):
        if mode not in ("in-place", "shadow"):
            raise ValueError(f'mode is "in-place" or "shadow", not "{mode}"')
        self._target = target
        self._held = _memory.of_tensors(target.placement, target.tensors(),
                                        to_write=True)
        self._native = _native.Receiver(
            catalog, model, target.placement,
            _memory.addresses(self._held), transports,
            staging_bytes, threads or _memory.default_threads(), verify,
            measure_bound, list(getattr(target, "known_tensors", ())), hook,
            timeout, stream, mode == "shadow", shadow_bytes, pause, resume,
            str(state_file), resume_interrupted, serve, refuse_lower_step,
            refuse_unknown_tensors)

    def prepare(self, timeout: float = 30) -> None:
        """Plans and connects now instead of in the first refit. CoverageError
        lists every hole."""
        self._native.prepare(timeout)

    def refit(self, version: str = "latest", timeout: float = 30, *,
              newer: bool = False) -> RefitReport:
        """Brings the memory to `version` ("RUN:EPOCH:STEP", or "latest", the
        newest that is READY; with `newer` one newer than what is committed),
        waiting for it at most until `timeout` seconds from now. Ctrl-C ends
        the wait. Raises CoverageError, DigestMismatch, PeerLost,
        VersionChanged, DeadlineExceeded, Refused, and MemoryMoved before
        anything else if the target's tensors are not where they were."""
        _memory.check(self._target)
        name = "" if version == "latest" else version
        return RefitReport(**self._native.refit(name, newer, timeout))

    async def refit_async(self, version: str = "latest", timeout: float = 30, *,
                          newer: bool = False) -> RefitReport:
        """refit() without blocking the event loop."""
        return await asyncio.to_thread(self.refit, version, timeout, newer=newer)

    def rollback(self, timeout: float = 30) -> RollbackReport:
        """Back to the version that was live before the last switch (mode
        "shadow"); called again, forward again. Raises Refused when none is
        held."""
        return RollbackReport(**self._native.rollback(timeout))

    @property
    def fenced(self) -> bool:
        """The memory may be torn (or was never filled): do not serve it."""
        return self._native.fenced

    @property
    def fenced_reason(self) -> str:
        return self._native.fenced_reason

    @property
    def committed(self) -> str:
        """Version of the last commit, or ""."""
        return self._native.committed

    def explain(self) -> str:
        """The plan for a person; empty before the first refit."""
        return self._native.explain(False)

    def close(self) -> None:
        """Leaves the catalog. The memory is free afterwards: a refit of another
        thread is waited for, and gives up at once if it waits for a version."""
        self._native.close()
        self._held = []

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_) -> None:
        self.close()
