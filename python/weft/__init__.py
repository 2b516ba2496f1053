"""Weft carries freshly trained weights from the ranks of a trainer into the
live parameters of inference engines, as one proven transaction.

    # a trainer rank
    publisher = weft.Publisher(catalog="host:6470", model="qwen3",
                               source=weft.torch.fsdp2(module))
    with publisher.update():       # readers are fenced out while memory changes
        optimizer.step()
    publisher.publish(step=7)      # READY when every rank has published

    # an engine rank
    receiver = weft.Receiver(catalog="host:6470", model="qwen3", target=target)
    report = receiver.refit("latest", timeout=30)
    print(report)

Importing weft needs neither torch nor NumPy.
"""

import os as _os
import sys as _sys

from weft import ucx_library as _ucx_library

#: Where UCX was found ("the system" or a folder), or None.
ucx = _ucx_library.load()

# Lazy binding: what UCX exports is looked up at the first call, and never if
# there is none.
_flags = _sys.getdlopenflags()
_sys.setdlopenflags(_os.RTLD_LAZY | _os.RTLD_LOCAL)
try:
    from weft import _native
finally:
    _sys.setdlopenflags(_flags)

from weft.catalog import Catalog, CatalogServer  # noqa: E402
from weft.errors import (AccessDenied, AlreadyPublished, BadInput,  # noqa: E402
                         CoverageError, DeadlineExceeded, DigestMismatch,
                         LimitReached, MemoryMoved, NotKnown, NotSupported,
                         OutOfMemory, PeerLost, Refused, VersionChanged,
                         WeftError)
from weft.layout import (Fragment, LogicalTensor, Placement,  # noqa: E402
                         ScaledTensor, StoredTensor)
from weft.plan import Plan, explain, plan, recipe_placement  # noqa: E402
from weft.publisher import Publisher, PublishReport  # noqa: E402
from weft.receiver import Receiver, RefitReport, RollbackReport  # noqa: E402
from weft.tensors import Tensors, tensors  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "AccessDenied", "AlreadyPublished", "BadInput", "Catalog", "CatalogServer",
    "CoverageError", "DeadlineExceeded", "DigestMismatch", "Fragment",
    "LimitReached", "LogicalTensor", "MemoryMoved", "NotKnown", "NotSupported",
    "OutOfMemory", "PeerLost", "Placement", "Plan", "PublishReport",
    "Publisher", "Receiver", "RefitReport", "Refused", "RollbackReport",
    "ScaledTensor", "StoredTensor", "Tensors", "VersionChanged", "WeftError",
    "explain", "plan", "recipe_placement", "tensors", "ucx",
]


def __getattr__(name):
    # weft.torch, weft.megatron and weft.vllm import what they are named after,
    # so they come only when they are asked for.
    if name in ("torch", "megatron", "vllm"):
        import importlib
        return importlib.import_module(f"weft.{name}")
    raise AttributeError(f"module 'weft' has no attribute {name!r}")
