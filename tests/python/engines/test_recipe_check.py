"""The comparison of captured placements with recipes: it must accept other
cuts of the same thing, and find each kind of difference."""

import copy
from dataclasses import replace

import pytest

import tiny_models
import weft
from weft.layout import Fragment
from weft.vllm.recipe_check import AGREES, against_recipe, differences

CONFIG = tiny_models.config_of("qwen2", tied=False)
QKV = "model.layers.1.self_attn.qkv_proj.weight"
GATE_UP = "model.layers.0.mlp.gate_up_proj.weight"


def recipe():
    return weft.recipe_placement(CONFIG, "vllm:tp=2", 1)


def stored(placement, name):
    return next(s for s in placement.stored if s.name == name)


def swap_boxes(placement):
    """Gate and up change places."""
    fragments = stored(placement, GATE_UP).fragments
    gate, up = fragments
    fragments[:] = [replace(gate, offset=up.offset),
                    replace(up, offset=gate.offset)]


def shift_box(placement):
    fragments = stored(placement, QKV).fragments
    first = fragments[0]
    fragments[0] = replace(first, box=(
        (first.box[0][0] - 1, first.box[0][1] - 1), *first.box[1:]))


def transpose(placement):
    fragments = stored(placement, "model.layers.0.self_attn.o_proj.weight"
                       ).fragments
    fragments[0] = replace(fragments[0], modes=fragments[0].modes[::-1])


def drop_fragment(placement):
    stored(placement, QKV).fragments.pop()


def other_shape(placement):
    s = stored(placement, GATE_UP)
    s.shape = (s.shape[0] + 2, *s.shape[1:])


def other_tensor(placement):
    fragments = stored(placement, QKV).fragments
    fragments[1] = replace(fragments[1], tensor=fragments[2].tensor)


@pytest.mark.parametrize("change, name", [
    (swap_boxes, GATE_UP), (shift_box, QKV), (drop_fragment, QKV),
    (transpose, "model.layers.0.self_attn.o_proj.weight"),
    (other_shape, GATE_UP), (other_tensor, QKV)])
def test_a_difference_is_found(change, name):
    changed = recipe()
    change(changed)
    assert differences(changed, recipe()) == [name]
    assert differences(recipe(), changed) == [name]


def test_a_missing_tensor_is_found():
    less = recipe()
    less.stored = [s for s in less.stored if s.name != QKV]
    assert differences(less, recipe()) == [QKV]
    assert differences(recipe(), less) == [QKV]
    assert differences(less, recipe(), {QKV}) == []


def test_another_cut_is_no_difference():
    cut = copy.deepcopy(recipe())
    for each in cut.stored:
        each.fragments = [part for f in each.fragments for part in halves(f)]
    assert sum(len(s.fragments) for s in cut.stored) > sum(
        len(s.fragments) for s in recipe().stored)
    assert differences(cut, recipe()) == []
    assert differences(recipe(), cut) == []


def halves(fragment):
    """Cut across its first dimension, which has one mode here."""
    (begin, end), ((extent, stride),) = fragment.box[0], fragment.modes[0]
    middle = (begin + end) // 2
    if middle == begin:
        return [fragment]
    assert extent == end - begin
    return [Fragment(fragment.tensor, ((b, e), *fragment.box[1:]),
                     (((e - b, stride),), *fragment.modes[1:]),
                     fragment.offset + (b - begin) * stride)
            for b, e in ((begin, middle), (middle, end))]


def test_what_is_said(tmp_path):
    folder = tiny_models.write(tmp_path, CONFIG, {})
    assert against_recipe(recipe(), folder, set()) == AGREES
    changed = recipe()
    swap_boxes(changed)
    assert against_recipe(changed, folder, set()) == (
        f'differs in "{GATE_UP}"')
    other = tiny_models.write(tmp_path / "other", CONFIG | {
        "model_type": "nobody", "architectures": ["Nobody"]}, {})
    assert against_recipe(recipe(), other, set()).startswith("no recipe: ")
    assert against_recipe(recipe(), tmp_path / "none", set()).startswith(
        "no recipe: ")
