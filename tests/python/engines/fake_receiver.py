"""A receiver that reads a checkpoint in memory, slowly and obviously: it is
the oracle of what a placement means."""

import torch

from weft.errors import WeftError


def fill(placement, tensors, checkpoint):
    """Writes every fragment and every zero of `placement` into `tensors`."""
    for stored, memory in zip(placement.stored, tensors, strict=True):
        assert memory.is_contiguous() and tuple(memory.shape) == stored.shape
        flat = memory.view(-1)
        for fragment in stored.fragments:
            logical = placement.tensors[fragment.tensor]
            source = checkpoint[logical.name]
            assert tuple(source.shape) == logical.shape, logical.name
            part = source[tuple(slice(b, e) for b, e in fragment.box)]
            flat[offsets_of(fragment).reshape(-1)] = part.reshape(-1).to(
                flat.dtype)
        for box in stored.zero_fill:
            memory[tuple(slice(b, e) for b, e in box)] = 0


def offsets_of(fragment):
    """The element offset of each logical index of the box, by the formula of
    weft/layout.py."""
    offsets = torch.tensor(fragment.offset)
    for (begin, end), modes in zip(fragment.box, fragment.modes, strict=True):
        number = torch.arange(end - begin)
        along = torch.zeros_like(number)
        for extent, stride in modes:
            along += number % extent * stride
            number = number // extent
        assert not number.any(), "modes do not span the box"
        offsets = offsets.unsqueeze(-1) + along
    return offsets


class Report:
    conversions = []

    def __init__(self, version):
        self.version = version


class FakeReceiver:
    """`versions`: {version: {name: tensor}}. `trouble`: None, "early" (fails
    before the first byte) or "torn" (fails after some)."""

    versions = {}
    trouble = None
    made = []

    def __init__(self, *, catalog, model, target, transports, timeout, hook,
                 serve, refuse_lower_step, refuse_unknown_tensors):
        self.catalog, self.model, self.target = catalog, model, target
        self.hook = hook
        self.refuse_lower_step = refuse_lower_step
        self.fenced, self.fenced_reason = True, "no refit has committed yet"
        self.closed = False
        FakeReceiver.made.append(self)

    def prepare(self, timeout=30):
        pass

    def refit(self, version="latest", timeout=30):
        assert not self.closed
        if version == "latest":
            version = list(self.versions)[-1]
        if self.trouble == "early" or version not in self.versions:
            raise WeftError(f'no version "{version}" of model "{self.model}"')
        tensors = self.target.tensors()
        if self.trouble == "torn":
            tensors[0].fill_(3)
            self.fenced, self.fenced_reason = True, "peer 3 was lost"
            raise WeftError("peer 3 was lost")
        fill(self.target.placement, tensors, self.versions[version])
        self.hook(version)
        self.fenced, self.fenced_reason = False, ""
        return Report(version)

    def close(self):
        self.closed = True
