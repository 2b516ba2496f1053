"""What each parameter of a Megatron-Core GPTModel holds of a checkpoint.

Cuts are even. With R = (Hq + 2G) * D rows, linear_qkv is one block
[q heads of the group, k, v] for each query group, and tensor parallelism cuts
rows [r * R / tp, (r + 1) * R / tp) of it, through a group if tp > G. linear_fc1
of a rank is [its gate rows; its up rows]. Vocabulary tables have rows of
padding at their end that no checkpoint has: holes. Experts are dealt out in
equal runs over expert parallelism, and each is cut like a dense MLP over the
tensor parallelism of experts.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Sequence

from weft.megatron.family import Decoder
from weft.torch.windows import Piece, Window, whole_pieces


class Held(NamedTuple):
    """One parameter: the windows of its memory tensor, the pieces of that
    which this rank has, and the shape that its local tensor must have."""

    windows: list[Window]
    pieces: list[list[Piece]]
    local_shape: tuple[int, ...]


class Rank(NamedTuple):
    """This rank's place in tensor parallelism."""

    tp: int
    tp_rank: int


class Deal(NamedTuple):
    """Which experts this rank has, and how each is cut."""

    ep: int
    ep_rank: int
    cut: Rank

    def experts(self, model: Decoder) -> range:
        """ValueError if ep does not divide their number."""
        if model.E % self.ep:
            raise ValueError(f"ep={self.ep} does not divide the {model.E} "
                             f"experts")
        count = model.E // self.ep
        return range(self.ep_rank * count, (self.ep_rank + 1) * count)


def vocabulary(model: Decoder, at: Rank, name: str,
               local_shape: Sequence[int]) -> Held:
    """Rows of a padded table; how many rows the padding has is what the local
    shape says. ValueError if the ranks together have too few rows."""
    rows = int(local_shape[0]) if local_shape else 0
    if rows * at.tp < model.V:
        raise ValueError(f"{at.tp} ranks with {rows} rows each are fewer than "
                         f"the {model.V} rows of the vocabulary")
    window = Window.whole(name, (model.V, model.H))
    pieces = [[Piece(at.tp_rank * rows, 0, rows)], [Piece(0, 0, model.H)]]
    return Held([window], pieces, (rows, model.H))


def replicated(name: str, shape: tuple[int, ...]) -> Held:
    return Held([Window.whole(name, shape)], whole_pieces(shape), shape)


Rule = Callable[[], Held]


def layer_rules(model: Decoder, at: Rank, deal: Deal,
                layer: int) -> dict[str, Rule]:
    """{name behind "decoder.layers.{i}.": its rule}, `layer` being the global
    number. Both namings of the norms, local and Transformer Engine's.
    ValueError if the experts cannot be dealt out."""
    prefix = f"model.layers.{layer}."
    rules = {
        "input_layernorm.weight": _norm(model, prefix, "input_layernorm"),
        "self_attention.linear_qkv.layer_norm_weight":
            _norm(model, prefix, "input_layernorm"),
        "pre_mlp_layernorm.weight":
            _norm(model, prefix, "post_attention_layernorm"),
        "self_attention.linear_qkv.weight":
            lambda: _qkv(model, at, prefix, "weight", (model.H,)),
        "self_attention.linear_proj.weight":
            lambda: _columns(at, prefix + "self_attn.o_proj.weight",
                             (model.H, model.Hq * model.D)),
    }
    if model.qkv_bias:
        rules["self_attention.linear_qkv.bias"] = (
            lambda: _qkv(model, at, prefix, "bias", ()))
    if model.o_bias:
        rules["self_attention.linear_proj.bias"] = (
            lambda: replicated(prefix + "self_attn.o_proj.bias", (model.H,)))
    if model.qk_norm:
        for x in "qk":
            rules[f"self_attention.{x}_layernorm.weight"] = (
                lambda x=x: replicated(f"{prefix}self_attn.{x}_norm.weight",
                                       (model.D,)))
    if model.has_experts(layer):
        return rules | _expert_rules(model, deal, prefix)
    return rules | _mlp_rules(model, at, prefix)


def _norm(model: Decoder, prefix: str, name: str) -> Rule:
    return lambda: replicated(f"{prefix}{name}.weight", (model.H,))


def _mlp_rules(model: Decoder, at: Rank, prefix: str) -> dict[str, Rule]:
    def gate_up(kind: str, columns: tuple[int, ...]) -> Held:
        return _gate_up(at, [f"{prefix}mlp.{part}_proj.{kind}"
                             for part in ("gate", "up")], (model.I, *columns))

    rules = {
        "mlp.linear_fc1.layer_norm_weight":
            _norm(model, prefix, "post_attention_layernorm"),
        "mlp.linear_fc1.weight": lambda: gate_up("weight", (model.H,)),
        "mlp.linear_fc2.weight":
            lambda: _columns(at, prefix + "mlp.down_proj.weight",
                             (model.H, model.I)),
    }
    if model.mlp_bias:
        rules["mlp.linear_fc1.bias"] = lambda: gate_up("bias", ())
        rules["mlp.linear_fc2.bias"] = (
            lambda: replicated(prefix + "mlp.down_proj.bias", (model.H,)))
    return rules


def _expert_rules(model: Decoder, deal: Deal, prefix: str) -> dict[str, Rule]:
    """The router, and experts as Transformer Engine groups them
    (linear_fc1.weight{j}) or one after the other (local_experts.{j}), j being
    the number within the rank."""
    rules = {"mlp.router.weight":
             lambda: replicated(f"{prefix}{model.experts.block}.gate.weight",
                                (model.E, model.H))}
    for here, expert in enumerate(deal.experts(model)):
        gate, up, down = (prefix + n for n in model.expert_names(expert))
        fc1 = (lambda names=(gate, up):
               _gate_up(deal.cut, names, (model.Im, model.H)))
        fc2 = (lambda name=down:
               _columns(deal.cut, name, (model.H, model.Im)))
        rules |= {
            f"mlp.experts.linear_fc1.weight{here}": fc1,
            f"mlp.experts.linear_fc2.weight{here}": fc2,
            f"mlp.experts.local_experts.{here}.linear_fc1.weight": fc1,
            f"mlp.experts.local_experts.{here}.linear_fc2.weight": fc2,
        }
    return rules


def _even(n: int, at: Rank, what: str) -> tuple[int, int]:
    if n % at.tp:
        raise ValueError(f"tp={at.tp} does not divide the {n} {what}")
    return at.tp_rank * (n // at.tp), n // at.tp


def _qkv(model: Decoder, at: Rank, prefix: str, kind: str,
         columns: tuple[int, ...]) -> Held:
    """`columns` is the row shape: (H,) of a weight, () of a bias."""
    begin, rows = _even(model.qkv_rows, at, "rows of linear_qkv")
    heads = model.group_heads
    windows = []
    for group in range(model.G):
        row = group * (heads + 2) * model.D
        for part, held in (("q", heads), ("k", 1), ("v", 1)):
            extent = held * model.D
            of_rows = model.D * (model.Hq if part == "q" else model.G)
            windows.append(_row_window(
                f"{prefix}self_attn.{part}_proj.{kind}", (of_rows, *columns),
                begin=group * extent, memory_begin=row, extent=extent))
            row += extent
    pieces = [[Piece(begin, 0, rows)], *whole_pieces(columns)]
    return Held(windows, pieces, (rows, *columns))


def _gate_up(at: Rank, names: Sequence[str], shape: tuple[int, ...]) -> Held:
    """`names` of gate and up, which both have `shape`."""
    begin, rows = _even(shape[0], at, "rows of gate and up")
    windows = [_row_window(name, shape, begin=begin, memory_begin=half * rows,
                           extent=rows) for half, name in enumerate(names)]
    local_shape = (2 * rows, *shape[1:])
    return Held(windows, whole_pieces(local_shape), local_shape)


def _columns(at: Rank, name: str, shape: tuple[int, int]) -> Held:
    begin, columns = _even(shape[1], at, f'columns of "{name}"')
    pieces = [[Piece(0, 0, shape[0])], [Piece(begin, 0, columns)]]
    return Held([Window.whole(name, shape)], pieces, (shape[0], columns))


def _row_window(name: str, shape: tuple[int, ...], begin: int,
                memory_begin: int, extent: int) -> Window:
    """Rows [begin, begin + extent) of `name` lie at rows from memory_begin."""
    zeros = (0,) * (len(shape) - 1)
    return Window(name, shape, (begin, *zeros), (memory_begin, *zeros),
                  (extent, *shape[1:]))
