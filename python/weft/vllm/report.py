"""Which tensors of an engine take which way, for a person and a program."""

from __future__ import annotations


class Report(dict):
    """`direct`, `packed` and `loader` together are all that a refit fills:
    written in place, written in place into packed memory, put there by the
    engine's loader from `staged` (logical tensors on the host). `derived`:
    layers that compute tensors from these. `recipe`: "agrees", or why Weft's
    recipe was not compared, or what it says otherwise. Sizes are in bytes."""

    @classmethod
    def of(cls, captured, packed_layers: set[str],
           derived: list[str], recipe: str) -> Report:
        report = cls(direct={}, packed={}, derived=derived, loader={},
                     staged={}, recipe=recipe)
        staged = set()
        for path in captured.loader_paths:
            report["loader"] |= path.live
            report["staged"] |= {name: tensor.nbytes for name, tensor
                                 in path.staged.items()}
            staged |= {id(tensor) for tensor in path.staged.values()}
        for stored, tensor in zip(captured.placement.stored, captured.tensors,
                                  strict=True):
            if id(tensor) in staged:
                continue
            layer = stored.name.rpartition(".")[0]
            way = "packed" if layer in packed_layers else "direct"
            report[way][stored.name] = tensor.nbytes
        return report

    def __str__(self) -> str:
        lines = [f"{len(self[way])} tensors, {sum(self[way].values())} bytes: "
                 + words for way, words in (
                     ("direct", "written in place"),
                     ("packed", "written in place, in the kernel's layout"))
                 if self[way]]
        if self["loader"]:
            lines.append(
                f"{len(self['loader'])} tensors: by the engine's loader, from "
                f"{sum(self['staged'].values())} bytes on the host")
            lines += [f"  {name}: {why}"
                      for name, why in self["loader"].items()]
        if self["derived"]:
            lines.append(f"{len(self['derived'])} layers derive tensors anew")
        lines.append(f"Weft's recipe: {self['recipe']}")
        return "\n".join(lines)
