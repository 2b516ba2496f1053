"""Publishing from a training loop that somebody else wrote.

    # a loop of one's own: publishes after every fourth optimizer step
    update = weft.callbacks.publish_every(publisher, every=4)
    with update():
        optimizer.step()

    # the Trainers of transformers and TRL
    Trainer(..., callbacks=[weft.callbacks.hf_callback(
        catalog="host:6470", model="qwen3", every=4)])

Importing this module needs neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

from weft.publisher import Publisher, PublishReport


def publish_every(publisher: Publisher, every: int = 1, timeout: float = 30,
                  step: int = 0) -> Callable:
    """Returns update(), to be put around each optimizer step. Readers are
    fenced out at each one, because each changes the memory; each `every`-th is
    published, numbered by optimizer steps counted from `step`. After an
    exception inside nothing is published."""
    _check_every(every)
    count = step

    @contextlib.contextmanager
    def update() -> Iterator[None]:
        nonlocal count
        publisher.begin_update(timeout)
        yield
        count += 1
        if count % every == 0:
            publisher.publish(count, timeout)

    return update


class WeftCallback:
    """Publishes what a Hugging Face Trainer trains; hf_callback() makes it a
    TrainerCallback.

    catalog, model: as for Publisher, and so are `options`. every: publish at
    optimizer steps that it divides; the first (before training) and the last
    always are. source: makes the source of the trained module, by default
    weft.torch.fsdp2 (FSDP2, DDP, one process). timeout: seconds, for each
    call. on_publish: called with each PublishReport.

    Between two published versions nothing can be read: each optimizer step
    changes the memory. After training the last version stays readable until
    close() or the end of the process. Each train() is an epoch of its own.
    """

    def __init__(self, catalog: str, model: str, every: int = 1, *,
                 source: Callable[[Any], Any] | None = None,
                 timeout: float = 30, epoch: int = 0,
                 on_publish: Callable[[PublishReport], Any] | None = None,
                 **options: Any):
        _check_every(every)
        self._catalog = catalog
        self._model = model
        self._every = every
        self._source = source
        self._timeout = timeout
        self._next_epoch = epoch
        self._on_publish = on_publish
        self._options = options
        self._published_step = -1
        self.publisher: Publisher | None = None

    def on_train_begin(self, args, state, control, model=None, **_):
        """Publishes the weights that training starts from."""
        if getattr(args, "load_best_model_at_end", False):
            raise ValueError(
                "load_best_model_at_end changes weights that are published "
                "already; turn it off, or publish from a loop of your own")
        self.close()
        self.publisher = Publisher(
            self._catalog, self._model, (self._source or _fsdp2)(model),
            epoch=self._next_epoch, timeout=self._timeout, **self._options)
        self._next_epoch += 1
        self._publish(state.global_step)

    def on_pre_optimizer_step(self, args, state, control, **_):
        """Fences readers out; the optimizer steps right after this."""
        self.publisher.begin_update(self._timeout)

    def on_step_end(self, args, state, control, **_):
        """The first event whose global_step counts the step just done."""
        if state.global_step % self._every == 0:
            self._publish(state.global_step)

    def on_train_end(self, args, state, control, **_):
        if state.global_step != self._published_step:
            self._publish(state.global_step)

    def close(self) -> None:
        """Withdraws what was published."""
        if self.publisher is not None:
            self.publisher.close()
            self.publisher = None

    def _publish(self, step: int) -> None:
        report = self.publisher.publish(step, self._timeout)
        self._published_step = step
        if self._on_publish is not None:
            self._on_publish(report)


def hf_callback(*args: Any, **options: Any) -> WeftCallback:
    """A WeftCallback (same arguments) that is a transformers.TrainerCallback."""
    import transformers

    class HfWeftCallback(WeftCallback, transformers.TrainerCallback):
        pass

    return HfWeftCallback(*args, **options)


def _fsdp2(module: Any) -> Any:
    import weft.torch
    return weft.torch.fsdp2(module)


def _check_every(every: int) -> None:
    if every < 1:
        raise ValueError(f"every is {every}, it must be 1 or more")
