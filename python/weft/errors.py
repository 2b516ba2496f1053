"""One exception class a kind of failure. Each carries the sentence of the C++
status: what is wrong, with names and values, and what to do."""


class WeftError(RuntimeError):
    """Anything that Weft refuses or that fails; base of all below."""


class BadInput(WeftError, ValueError):
    """An argument, a layout or a file that cannot be meant."""


class NotKnown(WeftError, LookupError):
    """A model, version or worker that the catalog does not know."""


class AlreadyPublished(WeftError):
    """This rank of this run and epoch has a live publisher already."""


class CoverageError(WeftError):
    """The sources do not give each element of the target exactly once; all
    holes and double writes are listed."""


class DigestMismatch(WeftError):
    """What arrived is not what was published; tensors, tiles and source ranks
    are named, and the receiver is fenced."""


class DeadlineExceeded(WeftError, TimeoutError):
    """The deadline passed."""


class PeerLost(WeftError, ConnectionError):
    """A peer or the catalog is gone, or never answered."""


class VersionChanged(WeftError):
    """The version changed while it was read; refit again."""


class Refused(WeftError):
    """Not in this state: an older epoch, a version that is gone, a closed
    session."""


class OutOfMemory(WeftError, MemoryError):
    """A budget of memory, or another limit of this process, was reached."""


class LimitReached(WeftError):
    """A limit of the catalog was reached: calls a second, workers, models,
    watches, leases of a worker. The sentence says which, and of calls how long
    to wait."""


class AccessDenied(WeftError, PermissionError):
    """The catalog wants a token, or another one than this."""


class NotSupported(WeftError, NotImplementedError):
    """This build or this machine cannot do it."""


class MemoryMoved(WeftError):
    """Tensors are not where they were when their source or target was made;
    they are named."""
