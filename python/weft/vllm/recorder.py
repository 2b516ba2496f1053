"""Watches a weight loader at work on meta tensors, and executes no write.

Everything is told apart by storage. A storage is *live* (of a parameter or
buffer of the model), a *root* (a logical tensor), *made* (a new storage whose
elements are elements of roots: clone, cat, a cast) or *computed* (values that
no root holds). Views need no rule: a view of a root has the root's storage,
and its strides say which elements it shows. A write into a live storage
becomes a `Write`; the bytes stay as they are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from weft.layout import LogicalTensor

aten = torch.ops.aten

# Elements of a made storage; each needs eight bytes while capture runs.
MAX_MADE_ELEMENTS = 1 << 27

# Codes of the elements of a made storage: root << ROOT_SHIFT | element of the
# root, or one of these.
ROOT_SHIFT = 42
UNKNOWN = -1
ZERO = -2


@dataclass
class View:
    """What a tensor shows of one storage, in elements of it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass
class Root:
    index: int
    tensor: LogicalTensor
    torch_dtype: torch.dtype
    handle: torch.Tensor


@dataclass
class Made:
    """`codes`: one int64 for each element of the storage."""

    codes: torch.Tensor
    dtypes: set  # that its values went through
    torch_dtype: torch.dtype
    handle: torch.Tensor


@dataclass
class Computed:
    """`roots` and `live`: what its values come from, by index and storage."""

    reason: str
    handle: torch.Tensor
    roots: frozenset[int] = frozenset()
    live: frozenset[int] = frozenset()


@dataclass
class Write:
    """One write into a live storage. Exactly one of the last four is set:
    `root` (copy of root_view), `codes` (copy of a made tensor, already in the
    shape of dst), `constant`, or `refusal`. `fed`: the root that was handed out
    last before it. `from_roots`, `from_live`: what a refused value comes from.
    `changes`: the old value counts, too."""

    storage: int
    dst: View
    dst_dtype: torch.dtype
    root: int | None = None
    root_view: View | None = None
    codes: torch.Tensor | None = None
    dtypes: frozenset = frozenset()
    constant: Any = None
    refusal: str | None = None
    fed: int = -1
    from_roots: frozenset[int] = frozenset()
    from_live: frozenset[int] = frozenset()
    changes: bool = False


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def view_of(tensor: torch.Tensor) -> View:
    return View(tuple(tensor.shape), tuple(tensor.stride()),
                tensor.storage_offset())


class Recorder(TorchDispatchMode):
    """`writes` are in the order in which the loader made them. `turn`: index of
    the root that was handed out last, to be set by whoever does that."""

    @classmethod
    def _should_skip_dynamo(cls):
        # No loader is compiled, and the guard against it would double the
        # cost of each of some 100,000 operators.
        return False

    def __init__(self, live: dict[int, torch.Tensor]):
        super().__init__()
        self._live = live
        self.turn = -1
        self._known: dict[int, Root | Made | Computed] = {}
        self._items: dict[float, torch.Tensor] = {}
        self.roots: list[Root] = []
        self.writes: list[Write] = []

    def feed(self, tensor: LogicalTensor, dtype: torch.dtype) -> torch.Tensor:
        """The meta tensor that stands for a logical tensor."""
        handle = torch.empty(tensor.shape, dtype=dtype, device="meta")
        root = Root(len(self.roots), tensor, dtype, handle)
        self.roots.append(root)
        self._known[storage_of(handle)] = root
        return handle

    def unresolved_reads(self) -> list[str]:
        """Roots of which the loader read a value and kept it to itself."""
        return sorted({name for tensor in self._items.values()
                       for name in self._names(tensor)})

    def roots_of(self, write: Write) -> frozenset[int]:
        """The roots that the written values come from, by index."""
        if write.root is not None:
            return frozenset([write.root])
        if write.codes is not None:
            codes = write.codes[write.codes >= 0]
            return frozenset(torch.unique(codes >> ROOT_SHIFT).tolist())
        return write.from_roots

    # ---- dispatch ---------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _is_view(func):  # the same storage
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = dict(kwargs or {})
        inputs = _tensors((args, kwargs))
        written = written_by(func, args, kwargs)
        if written:
            return self._on_write(func, args, kwargs, inputs, written)
        tracked = [t for t in inputs if self._is_tracked(t)]
        if not tracked:
            result = func(*args, **kwargs)
            self._on_live_read(func, inputs, result)
            return result
        if func is aten._local_scalar_dense.default:
            return self._on_item(args[0])
        if "device" in kwargs:  # meta tensors stay meta, wherever they go
            kwargs["device"] = torch.device("meta")
            kwargs.pop("pin_memory", None)
        result = func(*args, **kwargs)
        self._on_derive(func, args, kwargs, inputs, tracked, result)
        return result

    def _is_tracked(self, tensor):
        return storage_of(tensor) in self._known

    def _names(self, tensor) -> list[str]:
        known = self._known.get(storage_of(tensor))
        if isinstance(known, Root):
            return [known.tensor.name]
        if isinstance(known, Made):
            codes = known.codes[known.codes >= 0]
            return [self.roots[r].tensor.name
                    for r in torch.unique(codes >> ROOT_SHIFT).tolist()]
        return []

    def _on_live_read(self, func, inputs, result):
        """New values made from live ones: never from the checkpoint."""
        if not any(storage_of(t) in self._live for t in inputs):
            return
        for out in _tensors(result):
            if storage_of(out) not in self._live:
                self._known[storage_of(out)] = Computed(
                    f"{_op(func)} of live values", out, *self._origins(inputs))

    def _origins(self, tensors) -> tuple[frozenset[int], frozenset[int]]:
        """(roots, live storages) that the values of `tensors` come from."""
        roots: set[int] = set()
        live: set[int] = set()
        for tensor in tensors:
            key = storage_of(tensor)
            known = self._known.get(key)
            if key in self._live:
                live.add(key)
            elif isinstance(known, Root):
                roots.add(known.index)
            elif isinstance(known, Made):
                codes = known.codes[known.codes >= 0]
                roots.update(torch.unique(codes >> ROOT_SHIFT).tolist())
            elif isinstance(known, Computed):
                roots |= known.roots
                live |= known.live
        return frozenset(roots), frozenset(live)

    def _on_item(self, tensor):
        """A number that stands for one value, until a fill_ uses it."""
        number = float(2**52 + len(self._items))
        self._items[number] = tensor
        return int(number) if not tensor.is_floating_point() else number

    # ---- new storages -----------------------------------------------------

    def _on_derive(self, func, args, kwargs, inputs, tracked, result):
        old = {storage_of(t) for t in tracked}
        for out in _tensors(result):
            if storage_of(out) in old or storage_of(out) in self._known:
                continue
            self._known[storage_of(out)] = self._made_by(
                func, args, kwargs, inputs, tracked, out)

    def _made_by(self, func, args, kwargs, inputs, tracked, out):
        computed = next((self._known[storage_of(t)] for t in tracked
                         if isinstance(self._known[storage_of(t)], Computed)),
                        None)
        if computed is not None:
            return Computed(computed.reason, out, *self._origins(inputs))
        codes = None
        if out.untyped_storage().nbytes() <= MAX_MADE_ELEMENTS * out.itemsize:
            codes = self._codes_by(func, args, kwargs, out)
        if codes is None:
            names = sorted({n for t in tracked for n in self._names(t)})
            what = ", ".join(f'"{name}"' for name in names[:4])
            return Computed(f"{_op(func)} of {what or 'its tensors'}", out,
                            *self._origins(inputs))
        made = self._blank(out)
        _show(made.codes, view_of(out)).copy_(codes)
        for tensor in tracked:
            made.dtypes |= self._dtypes(tensor)
        return made

    def _codes_by(self, func, args, kwargs, out):
        """The codes of `out`, in its shape, if `func` only moves elements."""
        if func in (aten.clone.default, aten._to_copy.default,
                    aten._unsafe_view.default, aten.lift_fresh_copy.default):
            return self.codes_of(args[0])
        if func is aten.cat.default:
            parts = [self.codes_of(t) for t in args[0]]
            return None if any(p is None for p in parts) else torch.cat(
                parts, *args[1:], **kwargs)
        if func is aten.stack.default:
            parts = [self.codes_of(t) for t in args[0]]
            return None if any(p is None for p in parts) else torch.stack(
                parts, *args[1:], **kwargs)
        if func in (aten.index_select.default, aten.index.Tensor,
                    aten.repeat.default, aten.flip.default, aten.roll.default):
            codes = self.codes_of(args[0])
            return None if codes is None else func(codes, *args[1:], **kwargs)
        if func is aten.constant_pad_nd.default:
            codes = self.codes_of(args[0])
            value = args[2] if len(args) > 2 else kwargs.get("value", 0)
            if codes is None or value != 0:
                return None
            return aten.constant_pad_nd.default(codes, args[1], ZERO)
        if func in (aten.zeros_like.default, aten.new_zeros.default):
            return torch.full(out.shape, ZERO)
        if func in (aten.empty_like.default, aten.new_empty.default):
            return torch.full(out.shape, UNKNOWN)
        return None

    def codes_of(self, tensor) -> torch.Tensor | None:
        """The codes of a tensor's elements, in its shape; None if they are
        computed, reinterpreted or too many."""
        known = self._known.get(storage_of(tensor))
        if isinstance(known, Root):
            if (tensor.dtype != known.torch_dtype
                    or tensor.numel() > MAX_MADE_ELEMENTS):
                return None
            codes = torch.full((), (known.index << ROOT_SHIFT)
                               + tensor.storage_offset())
            for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
                codes = codes.unsqueeze(-1) + torch.arange(n) * stride
            return codes
        if isinstance(known, Made):
            if tensor.dtype != known.torch_dtype:
                return None
            return _show(known.codes, view_of(tensor))
        if known is None and not (tensor.is_meta
                                  or storage_of(tensor) in self._live):
            return torch.where(tensor == 0, ZERO, UNKNOWN)
        return None

    def _blank(self, tensor) -> Made:
        count = tensor.untyped_storage().nbytes() // tensor.itemsize
        return Made(torch.full((count,), UNKNOWN), {tensor.dtype},
                    tensor.dtype, tensor)

    def _dtypes(self, tensor) -> set:
        known = self._known.get(storage_of(tensor))
        return set(known.dtypes) if isinstance(known, Made) else {tensor.dtype}

    # ---- writes -----------------------------------------------------------

    def _on_write(self, func, args, kwargs, inputs, written):
        dst = written[0]
        if any(storage_of(t) in self._live for t in written):
            write = self._live_write(func, args, dst)
            write.fed = self.turn
            if write.refusal:
                write.from_roots, write.from_live = self._origins(
                    t for t in inputs if t is not dst)
            self.writes.append(write)
            return dst
        sources = [t for t in inputs if not any(t is w for w in written)]
        if not any(self._is_tracked(t) or storage_of(t) in self._live
                   for t in [dst, *sources]):
            return func(*args, **kwargs)
        self._change(func, args, inputs, dst)
        return dst

    def _live_write(self, func, args, dst) -> Write:
        write = Write(storage_of(dst), view_of(dst), dst.dtype)
        if func in (aten.zero_.default, aten.fill_.Scalar,
                    aten.fill_.Tensor):
            source = args[1] if len(args) > 1 else 0
            item = (None if isinstance(source, torch.Tensor)
                    else self._items.pop(source, None))
            if item is not None:
                source = item
            if not isinstance(source, torch.Tensor):
                write.constant = source
                return write
            source = source.reshape(()).expand(dst.shape)
        elif func is aten.copy_.default:
            source = args[1]
            if source.shape != dst.shape:
                source = source.expand(dst.shape)
        else:
            write.refusal = f"the loader changes it in place by {_op(func)}"
            write.changes = True
            return write
        return self._live_copy(write, source)

    def _live_copy(self, write, source) -> Write:
        known = self._known.get(storage_of(source))
        if isinstance(known, Computed):
            write.refusal = f"the loader computes its value: {known.reason}"
        elif isinstance(known, Root) and source.dtype == known.torch_dtype:
            write.root, write.root_view = known.index, view_of(source)
        elif isinstance(known, (Root, Made)):
            codes = self.codes_of(source)
            if codes is None:
                write.refusal = ("the loader reads bytes of "
                                 f"{self._names(source)} as {source.dtype}")
            else:
                write.codes = codes.clone()
                write.dtypes = frozenset(self._dtypes(source))
        elif storage_of(source) in self._live:
            write.refusal = "the loader copies another live tensor into it"
        elif source.is_meta or bool((source != 0).any()):
            write.refusal = "the loader computes its value"
        else:
            write.constant = 0
        return write

    def _change(self, func, args, inputs, dst):
        """A write into a storage that is not live but tracked, or is filled
        from a tracked one."""
        key = storage_of(dst)
        known = self._known.get(key)
        if isinstance(known, Computed):
            self._known[key] = Computed(known.reason, dst,
                                        *self._origins(inputs))
            return
        made = known
        if not isinstance(made, Made):
            size = dst.untyped_storage().nbytes() // dst.itemsize
            base = dst.as_strided((size,), (1,), 0)
            codes = self.codes_of(base) if size <= MAX_MADE_ELEMENTS else None
            made = None if codes is None else Made(
                codes, {dst.dtype}, dst.dtype, dst)
        source = None
        if func is aten.copy_.default:
            source = self.codes_of(args[1].expand(dst.shape))
        elif func is aten.zero_.default or (
                func is aten.fill_.Scalar and args[1] == 0):
            source = torch.full(dst.shape, ZERO)
        if made is None or source is None or dst.dtype != made.torch_dtype:
            self._known[key] = Computed(f"{_op(func)} in place", dst,
                                        *self._origins(inputs))
            return
        _show(made.codes, view_of(dst)).copy_(source)
        if func is aten.copy_.default:
            made.dtypes |= self._dtypes(args[1])
        self._known[key] = made


def _show(codes: torch.Tensor, view: View) -> torch.Tensor:
    return torch.as_strided(codes, view.shape, view.strides, view.offset)


def _op(func) -> str:
    return str(func).removeprefix("aten.")


def _tensors(value) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _collect(value, found)
    return found


def _collect(value, found):
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)


@functools.cache
def _is_view(func) -> bool:
    """Whether by its schema all results share the storage of an argument."""
    schema = func._schema
    return bool(schema.returns) and not _written_places(func) and all(
        result.alias_info is not None for result in schema.returns)


@functools.cache
def _written_places(func) -> list[tuple[int, str]]:
    """Position and name of each argument that the schema marks as written."""
    return [(i, argument.name)
            for i, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None
            and argument.alias_info.is_write]


def written_by(func, args, kwargs) -> list[torch.Tensor]:
    """The tensors that the operator writes into."""
    written: list[torch.Tensor] = []
    for i, name in _written_places(func):
        _collect(args[i] if i < len(args) else kwargs.get(name), written)
    return written
