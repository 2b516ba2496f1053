"""weft.vllm.strided and boxes against torch's own copies."""

import itertools
import os
import random
import time

import torch

from weft.layout import contiguous_strides
from weft.vllm import boxes
from weft.vllm.strided import MAX_PIECES, Irregular, pieces_of

SEED = int(os.environ.get("WEFT_TEST_SEED", time.time_ns() % 2**31))


def random_view(rng, tensor):
    for _ in range(rng.randrange(4)):
        if tensor.dim() == 0:
            break
        d = rng.randrange(tensor.dim())
        n = tensor.shape[d]
        choice = rng.randrange(5)
        if choice == 0:
            begin = rng.randrange(n)
            tensor = tensor.narrow(d, begin, rng.randrange(1, n - begin + 1))
        elif choice == 1:
            tensor = tensor.transpose(d, rng.randrange(tensor.dim()))
        elif choice == 2 and n % 2 == 0:
            tensor = tensor.unflatten(d, rng.choice([(2, n // 2), (n // 2, 2)]))
        elif choice == 3:
            tensor = tensor[(slice(None),) * d
                            + (slice(rng.randrange(min(2, n)), None, 2),)]
        elif choice == 4 and tensor.is_contiguous():
            tensor = tensor.view(-1)
    return tensor


def random_window(rng, shape):
    """(a tensor of -1, a permuted window of `shape` in it)."""
    outer = [n + rng.randrange(2) for n in shape]
    order = rng.sample(range(len(shape)), len(shape))
    memory = torch.full([outer[p] for p in order], -1)
    window = memory.permute([order.index(d) for d in range(len(shape))])
    for d, n in enumerate(shape):
        window = window.narrow(d, rng.randrange(outer[d] - n + 1), n)
    return memory, window


def offset_of(x, piece):
    offset = piece.offset
    for d, coordinate in enumerate(x):
        number = coordinate - piece.src[d][0]
        for extent, stride in piece.modes[d]:
            offset += number % extent * stride
            number //= extent
        assert number == 0
    return offset


def elements(box):
    return itertools.product(*[range(b, e) for b, e in box])


def test_pieces_are_the_copy():
    print("WEFT_TEST_SEED", SEED)
    rng = random.Random(SEED)
    for case in range(3000):
        shape = tuple(rng.choice([1, 2, 3, 4, 6])
                      for _ in range(rng.randrange(1, 4)))
        source = torch.arange(int(torch.tensor(shape).prod())).view(shape)
        view = random_view(rng, source)
        memory, window = random_window(rng, view.shape)
        pieces = pieces_of(view.shape, view.stride(), view.storage_offset(),
                           shape, window.stride(), window.storage_offset(),
                           memory.shape)
        window.copy_(view)
        written = torch.full_like(memory, -1).view(-1)
        strides = contiguous_strides(memory.shape)
        for piece in pieces:
            there = set()
            for x in elements(piece.src):
                offset = offset_of(x, piece)
                assert written[offset] == -1, case
                written[offset] = source[x]
                there.add(offset)
            assert there == {sum(i * s for i, s in zip(x, strides))
                             for x in elements(piece.dst)}, case
        assert torch.equal(written.view(memory.shape), memory), case
        holes, doubles = boxes.tile_faults(boxes.whole(memory.shape),
                                           [p.dst for p in pieces])
        assert not doubles
        assert sum(map(boxes.volume, holes)) == int((memory == -1).sum())


def test_a_repeated_source_element_is_one_piece_each():
    pieces = pieces_of((3, 4), (0, 1), 0, (4,), (4, 1), 0, (3, 4))
    assert [p.src for p in pieces] == [((0, 4),)] * 3
    assert [p.offset for p in pieces] == [0, 4, 8]


def test_too_many_pieces_are_refused():
    n = MAX_PIECES + 1
    try:
        pieces_of((n,), (2,), 0, (2 * n,), (1,), 0, (n,))
    except Irregular as error:
        assert str(MAX_PIECES) in str(error)
    else:
        raise AssertionError("no error")


def test_tile_faults_against_counting():
    rng = random.Random(SEED)
    for _ in range(500):
        shape = [rng.randrange(1, 5) for _ in range(rng.randrange(0, 4))]
        count = torch.zeros(shape, dtype=torch.int64)
        chosen = []
        for _ in range(rng.randrange(4)):
            box = []
            for n in shape:
                begin = rng.randrange(n)
                box.append((begin, rng.randrange(begin + 1, n + 1)))
            chosen.append(tuple(box))
            count[tuple(slice(b, e) for b, e in box)] += 1
        holes, doubles = boxes.tile_faults(boxes.whole(shape), chosen)
        found = torch.ones(shape, dtype=torch.int64)
        for box in holes:
            found[tuple(slice(b, e) for b, e in box)] -= 1
        for box, members in doubles:
            found[tuple(slice(b, e) for b, e in box)] += len(members) - 1
        assert torch.equal(found, count)
