"""Which elements of a DTensor this rank holds.

DTensor cuts a dimension once for each mesh dimension that shards it, each cut
being torch.chunk: ceil(n / k) elements each, the last chunks short or empty.
Only the order of the cuts is subtle. Plain Shards cut in the order of the
mesh. FSDP over tensor parallelism cuts last although its mesh dimension comes
first, and says so by `_StridedShard(dim, split_factor)`: `split_factor` is the
number of shards that were there before. DTensor itself reads that as "cut into
split_factor parts and chunk each part", which is the same set of elements only
where all divisions come out; where they do not, the memory is what the order of
construction made it. So: order of construction first, DTensor's reading only
where the former does not explain the local shape.
"""

from __future__ import annotations

from typing import Sequence

from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from weft.torch.windows import Piece


def pieces_of(tensor: DTensor) -> list[list[Piece]]:
    """For each dimension the ranges that this rank's local tensor holds.
    ValueError if a placement is unknown, this rank is not of the mesh, or no
    rule explains the shape of the local tensor."""
    mesh, placements = tensor.device_mesh, tuple(tensor.placements)
    shape = tuple(int(n) for n in tensor.shape)
    local_shape = tuple(int(n) for n in tensor._local_tensor.shape)
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(f"this rank is not in its mesh {mesh}")
    _check_placements(placements, len(shape))
    for order_of_construction in (True, False):
        pieces = []
        for dim, extent in enumerate(shape):
            cuts = [(i, p) for i, p in enumerate(placements)
                    if _sharded_dim(p, len(shape)) == dim]
            if order_of_construction:
                cuts = _construction_order(cuts, mesh.shape)
            pieces.append(_cut_all(extent, cuts, mesh.shape, coordinate))
        held = tuple(sum(p.extent for p in of_dim) for of_dim in pieces)
        if held == local_shape:
            return pieces
        # An empty shard may be empty in the other dimensions as well.
        if 0 in held and 0 in local_shape:
            return [[] for _ in shape]
    raise ValueError(f"placements {placements} of shape {shape} on mesh "
                     f"{tuple(mesh.shape)} do not explain the local shape "
                     f"{local_shape}")


def _check_placements(placements: Sequence[object], rank: int) -> None:
    for placement in placements:
        if isinstance(placement, Replicate):
            continue
        if placement.is_partial():
            raise ValueError(f"placement {placement!r} holds a part of a sum, "
                             f"not values; redistribute it first")
        if not isinstance(placement, (Shard, _StridedShard)):
            raise ValueError(f"placement {placement!r} is unknown")
        if not -rank <= placement.dim < rank:
            raise ValueError(f"placement {placement!r} names no dimension of a "
                             f"tensor of rank {rank}")


def _sharded_dim(placement: object, rank: int) -> int | None:
    if isinstance(placement, (Shard, _StridedShard)):
        return placement.dim % rank
    return None


def _construction_order(cuts, mesh_shape):
    """The cuts of one dimension, first made first. A _StridedShard moves
    behind those later cuts whose shards make up its split_factor, and is then
    an ordinary cut."""
    order = []
    for mesh_dim, placement in reversed(cuts):
        at, shards = 0, 1
        factor = (placement.split_factor
                  if isinstance(placement, _StridedShard) else 1)
        while at < len(order) and shards < factor:
            shards *= mesh_shape[order[at][0]]
            at += 1
        is_explained = shards == factor
        order.insert(at if is_explained else 0,
                     (mesh_dim, Shard(placement.dim) if is_explained
                      else placement))
    return order


def _cut_all(extent, cuts, mesh_shape, coordinate) -> list[Piece]:
    pieces = [Piece(0, 0, extent)]
    for mesh_dim, placement in cuts:
        parts = (placement.split_factor
                 if isinstance(placement, _StridedShard) else 1)
        pieces = _cut(pieces, mesh_shape[mesh_dim], coordinate[mesh_dim], parts)
    return pieces


def _cut(pieces: list[Piece], chunks: int, index: int,
         parts: int) -> list[Piece]:
    """Cuts what is left into `parts`, each into `chunks`; the index-th chunks
    of all parts, one behind the other."""
    held = sum(piece.extent for piece in pieces)
    kept: list[Piece] = []
    local = 0
    for part in range(parts):
        part_begin, part_end = _chunk(held, parts, part)
        begin, end = _chunk(part_end - part_begin, chunks, index)
        for piece in pieces:
            low = max(piece.local, part_begin + begin)
            high = min(piece.local + piece.extent, part_begin + end)
            if low < high:
                kept.append(Piece(piece.begin + low - piece.local, local,
                                  high - low))
                local += high - low
    return kept


def _chunk(n: int, k: int, r: int) -> tuple[int, int]:
    """torch.chunk's r-th of k: ceil(n / k) each, short or empty at the end."""
    size = -(-n // k)
    return min(n, r * size), min(n, (r + 1) * size)
