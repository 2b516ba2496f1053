"""This rank's number in Weft's order, and the name of the layout.

Weft numbers the ranks of FSDP2 with tp fastest, then shard, then replicate.
Device meshes name and order their dimensions as they please, so the dimensions
are told apart by what FSDP2 does with them.
"""

from __future__ import annotations

import math
from typing import Iterable, NamedTuple

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate

from weft.torch.modules import fsdp_groups

_AXES = ("shard", "replicate", "tp", "pp")  # in the order of a layout spec
_SLOWEST_FIRST = ("pp", "replicate", "shard", "tp")


class MeshPosition(NamedTuple):
    layout_spec: str
    rank: int
    num_ranks: int


class _Axis(NamedTuple):
    name: str  # one of _AXES
    degree: int
    index: int


def position_of(module: nn.Module, tensors: Iterable[object]) -> MeshPosition:
    """Of this rank among all that hold `tensors`, those of `module`.

    Without any DTensor every process holds everything: the ranks of the
    default group are replicas. ValueError if a DTensor's mesh has ranks that
    the largest one lacks."""
    dtensors = [t for t in tensors if isinstance(t, DTensor)]
    if not dtensors:
        is_alone = not (dist.is_available() and dist.is_initialized())
        world, rank = (1, 0) if is_alone else (dist.get_world_size(),
                                               dist.get_rank())
        return _position([_Axis("replicate", world, rank)])
    main = max((t.device_mesh for t in dtensors), key=DeviceMesh.size)
    _check_meshes(main, dtensors)
    roles = _roles(main, fsdp_groups(module), dtensors)
    axes = _axes_around(main)
    for dim, role in enumerate(roles):
        axes.append(_Axis(role, main.size(dim), main.get_coordinate()[dim]))
    return _position(axes)


def _position(axes: list[_Axis]) -> MeshPosition:
    degrees = {name: math.prod(a.degree for a in axes if a.name == name)
               for name in _AXES}
    rank = 0
    for name in _SLOWEST_FIRST:
        for axis in axes:
            if axis.name == name:
                rank = rank * axis.degree + axis.index
    given = [f"{name}={degree}" for name, degree in degrees.items()
             if degree > 1]
    return MeshPosition("fsdp" + (":" + ",".join(given) if given else ""),
                        rank, math.prod(degrees.values()))


def _check_meshes(main: DeviceMesh, dtensors: list[DTensor]) -> None:
    known = set(main.mesh.flatten().tolist())
    for mesh in {id(t.device_mesh): t.device_mesh for t in dtensors}.values():
        others = set(mesh.mesh.flatten().tolist()) - known
        if others:
            raise ValueError(f"ranks {sorted(others)} of mesh {mesh} are not "
                             f"in the largest mesh, {main}")


def _roles(main: DeviceMesh, groups: list[object],
           dtensors: list[DTensor]) -> list[str]:
    """The axis that each dimension of the largest mesh is."""
    data = _data_dims(main, groups)
    roles = []
    for dim in range(main.ndim):
        role = data.get(dim)
        if role is None:
            is_cut = any(t.device_mesh == main and
                         not isinstance(t.placements[dim], Replicate)
                         for t in dtensors)
            role = "tp" if is_cut else "replicate"
        roles.append(role)
    return roles


def _data_dims(main: DeviceMesh, groups: list[object]) -> dict[int, str]:
    """{dimension of the largest mesh: "shard" or "replicate"} by FSDP2's own
    record. FSDP2 puts its dimensions before those of tensor parallelism."""
    for group in groups:
        for parameter in group.fsdp_params:
            if parameter.sharded_param.device_mesh != main:
                continue
            info = parameter.mesh_info
            data = {}
            for role, dim in (("shard", info.shard_mesh_dim),
                              ("replicate", info.replicate_mesh_dim)):
                if dim is None:
                    continue
                names = info.mesh.mesh_dim_names
                own = main.mesh_dim_names
                if names and own and names[dim] in own:
                    dim = own.index(names[dim])
                data[dim] = role
            return data
    return {}


def _axes_around(main: DeviceMesh) -> list[_Axis]:
    """The dimensions of the root mesh that the largest mesh runs not along:
    pipeline stages if they are called pp, else replicas."""
    root = main._get_root_mesh()
    if root.size() <= main.size() or root.get_coordinate() is None:
        return []
    in_main = set(main.mesh.flatten().tolist())
    places = [[int(i) for i in (root.mesh == rank).nonzero()[0]]
              for rank in in_main]
    axes = []
    for dim in range(root.ndim):
        if len({place[dim] for place in places}) > 1:
            continue
        names = root.mesh_dim_names
        is_pipeline = bool(names) and names[dim] in ("pp", "pipeline")
        axes.append(_Axis("pp" if is_pipeline else "replicate",
                          root.size(dim), root.get_coordinate()[dim]))
    return axes
