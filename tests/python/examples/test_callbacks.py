"""weft.callbacks without a trainer: the events in the order of transformers."""

import array
import types

import pytest

weft = pytest.importorskip("weft")
callbacks = pytest.importorskip("weft.callbacks")


@pytest.fixture
def catalog():
    with weft.CatalogServer("127.0.0.1:0") as server:
        yield server.address


def source(values):
    placement = weft.Placement("tensors", 0, 1)
    index = placement.tensor("t", "F32", (len(values),))
    placement.stored.append(weft.StoredTensor("t", "F32", (len(values),), [
        weft.Fragment.row_major(index, [(0, len(values))], (len(values),), (0,))]))
    return weft.tensors({"t": values}, placement)


def versions(catalog, state=None):
    return sorted(v["version"] for v in weft.Catalog(catalog).versions("m")
                  if state is None or v["state"] == state)


def test_publish_every(catalog):
    live, mine = array.array("f", [0] * 4), array.array("f", [-1] * 4)
    with weft.Publisher(catalog, "m", source(live)) as publisher, \
            weft.Receiver(catalog, "m", source(mine)) as receiver:
        update = callbacks.publish_every(publisher, every=2)
        for step in range(1, 6):
            with update():
                live[0] = step
            if step % 2 == 0:
                assert receiver.refit(timeout=30).version == f"run:0:{step}"
                assert mine == live
            else:
                assert versions(catalog, "READY") == []
        with pytest.raises(ZeroDivisionError):
            with update():
                live[0] = 1 / 0
        assert versions(catalog, "READY") == []


def train(callback, values, steps, **options):
    """What Trainer._inner_training_loop calls, in its order."""
    args = types.SimpleNamespace(**options)
    state = types.SimpleNamespace(global_step=0)
    callback.on_train_begin(args, state, None, model=values, optimizer=None)
    for _ in range(steps):
        callback.on_pre_optimizer_step(args, state, None, model=values)
        values[0] += 1
        state.global_step += 1
        callback.on_step_end(args, state, None, model=values)
    callback.on_train_end(args, state, None, model=values)


def test_callback(catalog):
    values, published = array.array("f", [0] * 4), []
    callback = callbacks.WeftCallback(
        catalog, "m", every=3, source=source,
        on_publish=lambda report: published.append(report.version))
    train(callback, values, 4)
    assert published == ["run:0:0", "run:0:3", "run:0:4"]
    assert versions(catalog, "READY") == ["run:0:4"]  # until it is closed
    train(callback, values, 3)
    assert published[3:] == ["run:1:0", "run:1:3"]
    callback.close()
    assert versions(catalog, "READY") == []


def test_what_is_refused(catalog):
    with pytest.raises(ValueError, match="every is 0"):
        callbacks.WeftCallback(catalog, "m", every=0)
    callback = callbacks.WeftCallback(catalog, "m", source=source)
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        train(callback, array.array("f", [0]), 1, load_best_model_at_end=True)
    assert callback.publisher is None


def test_it_is_a_trainer_callback():
    transformers = pytest.importorskip("transformers")
    callback = callbacks.hf_callback("127.0.0.1:1", "m", every=2)
    assert isinstance(callback, transformers.TrainerCallback)
    assert isinstance(callback, callbacks.WeftCallback)
    # Trainer calls every event of every callback.
    assert callback.on_save(None, None, None) is None
    for event in ("on_train_begin", "on_pre_optimizer_step", "on_step_end",
                  "on_train_end"):
        assert hasattr(transformers.TrainerCallback, event), event
