"""The model of today.py: a checkpoint's tensors, an engine's fused parameters,
quantising in blocks, and buckets."""

import dataclasses

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 128
FP8_MOST = 448.0
ALIGNMENT = 256


@dataclasses.dataclass(frozen=True)
class Shape:
    hidden: int = 4096
    layers: int = 36
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    intermediate: int = 12288
    vocab: int = 151936
    bucket_bytes: int = 1 << 30


SMALL = Shape(hidden=256, layers=2, heads=4, kv_heads=2, head_dim=128,
              intermediate=384, vocab=640, bucket_bytes=1 << 20)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A tensor of the checkpoint, and the rows of a parameter that it fills."""
    name: str
    shape: tuple
    parameter: str
    first_row: int
    quantised: bool

    @property
    def elements(self):
        return torch.Size(self.shape).numel()


def pieces_of(shape):
    found = []

    def add(parameter, rows, columns, names, quantised=True):
        at = 0
        for name, height in zip(names, rows):
            size = (height, columns) if columns else (height,)
            found.append(Piece(name, size, parameter, at, quantised))
            at += height

    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    add("embed", [shape.vocab], shape.hidden, ["embed_tokens"], False)
    for layer in range(shape.layers):
        def of(*names, layer=layer):
            return [f"layers.{layer}.{name}" for name in names]
        add(of("qkv")[0], [q, kv, kv], shape.hidden,
            of("q_proj", "k_proj", "v_proj"))
        add(of("o")[0], [shape.hidden], q, of("o_proj"))
        add(of("gate_up")[0], [shape.intermediate] * 2, shape.hidden,
            of("gate_proj", "up_proj"))
        add(of("down")[0], [shape.hidden], shape.intermediate, of("down_proj"))
        for name, width in (("q_norm", shape.head_dim),
                            ("k_norm", shape.head_dim),
                            ("input_norm", shape.hidden),
                            ("post_norm", shape.hidden)):
            add(of(name)[0], [width], 0, of(name), False)
    add("norm", [shape.hidden], 0, ["norm"], False)
    add("head", [shape.vocab], shape.hidden, ["lm_head"], False)
    return found


def scale_shape(piece):
    return tuple(extent // BLOCK for extent in piece.shape)


def wire_bytes(pieces, fp8):
    def of(piece):
        if not (fp8 and piece.quantised):
            return 2 * piece.elements
        return piece.elements + 4 * torch.Size(scale_shape(piece)).numel()
    return sum(map(of, pieces))


class Parameters:
    """The engine's: fused, bf16, or FP8 with scales where quantised."""

    def __init__(self, pieces, device, fp8):
        rows, self.tensors, self.scales = {}, {}, {}
        for piece in pieces:
            rows.setdefault(piece.parameter, []).append(piece)
        for name, parts in rows.items():
            size = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
            narrow = fp8 and parts[0].quantised
            self.tensors[name] = torch.zeros(
                size, device=device,
                dtype=torch.float8_e4m3fn if narrow else torch.bfloat16)
            if narrow:
                self.scales[name] = torch.zeros(
                    tuple(extent // BLOCK for extent in size), device=device)

    def rows(self, piece):
        return self.tensors[piece.parameter][
            piece.first_row:piece.first_row + piece.shape[0]]

    def scale_rows(self, piece):
        first = piece.first_row // BLOCK
        return self.scales[piece.parameter][
            first:first + piece.shape[0] // BLOCK]


if triton is not None:
    @triton.jit
    def _quantise_block(source, result, scales, columns, across,
                        block: tl.constexpr, most: tl.constexpr):
        row = tl.program_id(0)
        column = tl.program_id(1)
        at = ((row * block + tl.arange(0, block))[:, None].to(tl.int64) * columns
              + column * block + tl.arange(0, block)[None, :])
        values = tl.load(source + at).to(tl.float32)
        scale = tl.max(tl.max(tl.abs(values), axis=1), axis=0) / most
        scale = tl.where(scale == 0, 1.0, scale)
        tl.store(result + at, (values / scale).to(tl.float8e4nv))
        tl.store(scales + row * across + column, scale)


def quantise(source, result, scales):
    if triton is not None and source.is_cuda:
        _quantise_block[scales.shape](source, result, scales, source.shape[1],
                                      scales.shape[1], block=BLOCK,
                                      most=FP8_MOST, num_warps=8)
        return
    tall, wide = scales.shape
    blocks = source.float().view(tall, BLOCK, wide, BLOCK)
    most = blocks.abs().amax(dim=(1, 3)) / FP8_MOST
    scales.copy_(torch.where(most == 0, torch.ones_like(most), most))
    result.copy_((blocks / scales[:, None, :, None]).view(source.shape)
                 .to(torch.float8_e4m3fn))


class Bucket:
    """Where pieces lie in a buffer that goes over at once."""

    def __init__(self):
        self.bytes = 0
        self.parts = []  # (piece, offset of values, offset of scales or None)

    def take(self, size):
        at = self.bytes
        self.bytes = -(-(at + size) // ALIGNMENT) * ALIGNMENT
        return at


def buckets_of(pieces, fp8, most_bytes):
    buckets = [Bucket()]
    for piece in pieces:
        narrow = fp8 and piece.quantised
        size = piece.elements * (1 if narrow else 2)
        if buckets[-1].parts and buckets[-1].bytes + size > most_bytes:
            buckets.append(Bucket())
        values = buckets[-1].take(size)
        scales = None
        if narrow:
            scales = buckets[-1].take(
                4 * torch.Size(scale_shape(piece)).numel())
        buckets[-1].parts.append((piece, values, scales))
    return buckets


def view(buffer, offset, dtype, size):
    length = torch.Size(size).numel() * dtype.itemsize
    return buffer[offset:offset + length].view(dtype).view(size)
