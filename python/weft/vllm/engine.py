"""Weft behind vLLM's weight transfer routes (backend "weft").

One session is start -> update (once or more) -> finish. An update that fails
after the first byte leaves the engine fenced: its weights may be torn, every
later answer says so, and the next update that succeeds heals it. What a worker
cannot do (stop the scheduler, drop caches) is done by weft.vllm.core_guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import torch
from vllm.distributed.weight_transfer.base import (WeightTransferEngine,
                                                   WeightTransferInitInfo,
                                                   WeightTransferUpdateInfo)
from vllm.logger import init_logger

from .errors import EngineRefused, WeftError
from .target import check_live_format, target, use_live_weights

logger = init_logger("vllm.weft.engine")  # below "vllm" it has a handler

# What a worker says it holds when an operator lifted its fence.
UNVERIFIED = "unverified"


def make_receiver(**arguments) -> Any:
    """What brings a target to a version; tests put another one here."""
    import weft
    return weft.Receiver(**arguments)


receiver_factory: Callable[..., Any] = make_receiver


@dataclass
class InitInfo(WeightTransferInitInfo):
    """`checkpoint`: a folder whose safetensors headers name the logical
    tensors, where the engine's own model path has none. timeout: seconds.
    serve: engines that come later may read the weights here, too.
    refuse_lower_step: no update goes back to a lower step of the same run, as
    after a trainer that has lost its checkpoint. refuse_unknown_tensors: no
    update from a trainer of a model that has more than this one."""

    catalog: str
    model: str
    transports: str = "auto"
    timeout: float = 30.0
    checkpoint: str | None = None
    serve: bool = False
    refuse_lower_step: bool = False
    refuse_unknown_tensors: bool = False

    def __post_init__(self) -> None:
        _check_texts(catalog=self.catalog, model=self.model,
                     transports=self.transports)
        _check_seconds(self.timeout)
        for name in ("serve", "refuse_lower_step", "refuse_unknown_tensors"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}, it must be true or "
                                "false")


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """`version`: "RUN:EPOCH:STEP" or "latest". timeout: seconds, by default
    that of the init info. unfence: move nothing, and serve the weights that a
    failed update left, torn as they may be; the label becomes "unverified", and
    init_transfer_engine must be called again. For an operator who has made them
    good by other means."""

    version: str = "latest"
    timeout: float | None = None
    unfence: bool = False

    def __post_init__(self) -> None:
        _check_texts(version=self.version)
        if self.timeout is not None:
            _check_seconds(self.timeout)


class WeftEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """One worker's end. Called by one thread at a time."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, config, vllm_config, device, model) -> None:
        super().__init__(config, vllm_config, device, model)
        refusal = refusal_of(vllm_config)
        if refusal:
            raise EngineRefused(refusal)
        check_live_format(model)
        # Before profiling and compilation, which would keep the packed copy.
        use_live_weights(model)
        self._receiver: Any = None
        self._target: Any = None
        self._init_info: InitInfo | None = None
        self._fenced = ""
        self._session_version: str | None = None
        self._committed = ""

    # ---- state ------------------------------------------------------------

    @property
    def fenced_reason(self) -> str:
        """Why this worker must not serve; empty if it may."""
        return self._fenced

    @property
    def committed(self) -> str:
        """The version of the last successful update, or ""."""
        return self._committed

    # ---- vLLM's calls -----------------------------------------------------

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """May be called again, with another catalog too; a fence stays."""
        self._close()
        if self._target is None:
            self._target = target(self._default_model, self.vllm_config,
                                  checkpoint=init_info.checkpoint)
            logger.info("%s", self._target.report())
        self._receiver = receiver_factory(
            catalog=init_info.catalog, model=init_info.model,
            target=self._target, transports=init_info.transports,
            timeout=init_info.timeout, serve=init_info.serve,
            refuse_lower_step=init_info.refuse_lower_step,
            refuse_unknown_tensors=init_info.refuse_unknown_tensors,
            hook=lambda version: self._target.after_refit())
        self._init_info = init_info

    def start_weight_update(self) -> None:
        # A fence can be lifted without a catalog: there may be none any more.
        if self._receiver is None and not self._fenced:
            raise WeftError(self._no_receiver())
        self._session_version = None

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        # A later failure must not leave an earlier success of this session.
        self._session_version = None
        if update_info.unfence:
            self._unfence()
            return
        if self._receiver is None or self._init_info is None:
            raise WeftError(self._no_receiver())
        timeout = (self._init_info.timeout if update_info.timeout is None
                   else update_info.timeout)
        # Steps and updates of a worker come one after another from one queue,
        # so none overlaps another; kernels of the last step may still read.
        self._wait_for_device()
        reason_before = self._receiver.fenced_reason
        try:
            report = self._receiver.refit(update_info.version, timeout=timeout)
            self._wait_for_device()
        except BaseException as error:
            failure = self._failed(update_info.version, reason_before, error)
            if not isinstance(error, Exception):
                raise  # Ctrl-C stays what it is
            kind = type(error) if isinstance(error, WeftError) else WeftError
            raise kind(failure) from error
        logger.info("%s", report)
        for change in report.conversions:
            logger.info("%d tensors converted %s%s", change["tensors"],
                        change["conversion"],
                        ", which rounds" if change["lossy"] else "")
        if self._init_info.serve and not report.serving:
            logger.warning("%s is not served to other engines: %s",
                           report.version, report.not_served)
        self._fenced = ""
        self._committed = str(report.version)
        self._session_version = self._committed

    def finish_weight_update(self) -> None:
        if self._fenced or self._session_version is None:
            held = f'"{self._committed}"' if self._committed else "the old ones"
            raise WeftError(self._said(
                "finish without a successful update in this session: the "
                f"weights are {held}; call update_weights and finish again"))
        self._session_version = None

    def shutdown(self) -> None:
        """Leaves the catalog. A fence stays; init_transfer_engine comes
        back."""
        self._close()

    # ---- inside -----------------------------------------------------------

    def _failed(self, version: str, reason_before: str, error) -> str:
        """What to say of a refit that failed. Fences, unless no byte can have
        been written: a receiver is born fenced, and only a new reason means
        that it began to write."""
        if (self._receiver.fenced
                and self._receiver.fenced_reason != reason_before):
            self._fenced = f'refit to "{version}" failed: {_sentence(error)}'
            return self._said("update failed")
        return self._said(f'refit to "{version}" failed before the first '
                          f"byte: {_sentence(error)}")

    def _unfence(self) -> None:
        logger.warning("weights that nothing has proven are served, as told: "
                       "%s", self._fenced or "this worker was not fenced")
        # Its reason would hide that a later failure has the same one.
        self._close()
        self._fenced = ""
        self._committed = self._session_version = UNVERIFIED

    def _no_receiver(self) -> str:
        return self._said("no receiver yet; call init_weight_transfer_engine "
                          "first")

    def _said(self, message: str) -> str:
        if not self._fenced:
            return message
        return (f"{message}; the engine is fenced, its weights may be torn "
                f"({self._fenced}); an update that succeeds heals it")

    def _wait_for_device(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def _close(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()


def refusal_of(vllm_config) -> str | None:
    """Why these settings and direct writes do not go together, or None."""
    parallel = vllm_config.parallel_config
    if parallel.enable_eplb:
        return ("enable_eplb moves experts between ranks while the engine "
                "serves, so a placement does not hold; switch it off")
    if vllm_config.model_config.enable_sleep_mode:
        return ("enable_sleep_mode gives weights other pages at wake-up, and "
                "registrations with the network die; switch it off")
    if str(vllm_config.load_config.load_format) == "ipc_cache":
        return ("load_format ipc_cache shares the weights with other "
                "processes, which a refit would change too; use another one")
    offload = getattr(vllm_config, "offload_config", None)
    if offload is not None and (offload.uva.cpu_offload_gb > 0
                                or offload.prefetch.offload_group_size > 0):
        return ("offloaded weights (cpu_offload_gb "
                f"{offload.uva.cpu_offload_gb}, offload_group_size "
                f"{offload.prefetch.offload_group_size}) are not where the "
                "model computes; switch offloading off")
    return None


def _check_texts(**values) -> None:
    """TypeError, which vLLM reports with the name of the info class."""
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise TypeError(f"{name} is {value!r}, it must be a text")


def _check_seconds(timeout) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) \
            or not timeout > 0:
        raise TypeError(f"timeout is {timeout!r}, it must be a number of "
                        "seconds above 0")


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
