"""The trainer's half of vLLM's contract: publish, then drive one session.

Weights do not pass through here: a weft.Publisher on each trainer rank makes
them readable, and this tells the engines which version to take. So no
WeightSource is needed and nothing is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vllm.distributed.weight_transfer.base import (TrainerInitInfo,
                                                   TrainerWeightTransferEngine)

from .errors import WeftError


@dataclass
class WeftTrainerInitInfo(TrainerInitInfo):
    """`publisher`: this rank's weft.Publisher, or None if the caller publishes
    by itself. The rest is the engines' init info."""

    backend: ClassVar[str] = "weft"

    catalog: str
    model: str
    publisher: Any = None
    transports: str = "auto"
    timeout: float = 30.0


class WeftTrainer(TrainerWeightTransferEngine[WeftTrainerInitInfo]):
    """All ranks call send_weights(step); rank 0 drives the engines, which
    wait until every rank has published."""

    init_info_cls = WeftTrainerInitInfo

    def __init__(self, init_info: WeftTrainerInitInfo, *, client) -> None:
        super().__init__(client=client, is_sender=init_info.is_sender)
        self._publisher = init_info.publisher

    @classmethod
    def trainer_init(cls, init_info, *, client, source=None):
        if source is not None:
            raise WeftError("the weft backend takes no WeightSource: weights "
                            "go out through weft.Publisher")
        if init_info.is_sender:
            _told(client.init_weight_transfer_engine, {
                "catalog": init_info.catalog, "model": init_info.model,
                "transports": init_info.transports,
                "timeout": init_info.timeout})
        return cls(init_info, client=client)

    def send_weights(self, step: int | None = None,
                     version: str = "latest") -> None:
        """Publishes `step` (if a publisher was given) and brings the engines
        to it; or brings them to `version`, which is published already.

        WeftError with the engine's own sentence if one fails; it says whether
        the engine is fenced."""
        if self._publisher is not None and step is not None:
            version = str(self._publisher.publish(step=step).version)
        if not self.is_sender:
            return
        # The engine knows best which version "latest" was.
        label = None if version == "latest" else version
        _told(self.client.start_weight_update)
        _told(self.client.update_weights, {"version": version})
        _told(self.client.finish_weight_update, weight_version=label)


def _told(call, *args, **kwargs) -> None:
    """Calls an engine. Over HTTP, vLLM's client raises the status alone and
    leaves the sentence in the body."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        body = getattr(getattr(error, "response", None), "text", "")
        if not body:
            raise
        raise WeftError(f"{call.__name__}: {body}") from error
