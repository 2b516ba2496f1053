"""What must happen in vLLM's engine core around a refit.

A worker owns weights; the scheduler, the prefix cache and the request queue
belong to the engine core, often in another process. The plug-in runs there
too, so it wraps methods of EngineCore. They do something only if the weight
transfer backend is "weft":

- collective_rpc("update_weights"): after a success the prefix, connector,
  multimodal and encoder caches are dropped, whatever the caller of /pause
  asked for: keys and values of old weights do not outlive them. Running
  requests are recomputed. After a failure that may have torn weights, running
  requests are aborted, the scheduler stops, and the core is fenced.
- preprocess_add_request, resume_scheduler: refused while fenced, with the
  reason. (An engine core in the process of its front end is asked before the
  front end books the request: it would wait for it for ever.)
- pause_scheduler: remembered, so that healing does not resume what an
  operator paused.
"""

from __future__ import annotations

import functools
import logging

from .errors import WeftError

logger = logging.getLogger(__name__)

_MARK = "_weft_guard"


def install() -> None:
    """Wraps the methods; once, however often it is called."""
    from vllm.v1.engine import core, llm_engine

    _wrap(core.EngineCore, "collective_rpc", _collective_rpc)
    _wrap(core.EngineCore, "preprocess_add_request", _refused_while_fenced)
    _wrap(core.EngineCore, "resume_scheduler", _refused_while_fenced)
    for owner in (core.EngineCore, core.EngineCoreProc):
        if "pause_scheduler" in vars(owner):
            _wrap(owner, "pause_scheduler", _pause_scheduler)
    _wrap(llm_engine.LLMEngine, "add_request", _add_request)


def fence_of(core) -> str:
    """Why the core must not serve; empty if it may."""
    return getattr(core, "_weft_fence", "")


def worker_state(worker) -> tuple[str, str]:
    """Runs in a worker: (why it must not serve, committed version)."""
    engine = getattr(worker, "weight_transfer_engine", None)
    return (getattr(engine, "fenced_reason", ""),
            getattr(engine, "committed", ""))


def _wrap(owner, name, around) -> None:
    original = getattr(owner, name)
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def wrapped(self, *args, **kwargs):
        config = self.vllm_config.weight_transfer_config
        if config is None or config.backend != "weft":
            return original(self, *args, **kwargs)
        return around(original, self, *args, **kwargs)

    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)


def _collective_rpc(original, core, method, *args, **kwargs):
    if method != "update_weights":
        return original(core, method, *args, **kwargs)
    try:
        result = original(core, method, *args, **kwargs)
    except BaseException:
        reason = _reason_of(core)
        if reason:
            _fence(core, reason)
        raise
    try:
        core._reset_caches()
    except BaseException as error:
        reason = f"caches of old weights could not be dropped: {error}"
        _fence(core, reason)
        raise WeftError(f"the weights are new, but {reason}") from error
    _heal(core)
    return result


def _reason_of(core) -> str:
    """Why the workers together must not serve, or "". One that does not
    answer may be torn as well."""
    try:
        states = core.model_executor.collective_rpc(worker_state, timeout=30)
    except BaseException as error:
        return f"a worker does not answer: {error}"
    for rank, (reason, _) in enumerate(states):
        if reason:
            return f"rank {rank}: {reason}"
    held = [committed or "what it was started with" for _, committed in states]
    if len(set(held)) > 1:
        return "ranks hold different versions: " + ", ".join(
            f"rank {rank} {version}" for rank, version in enumerate(held))
    return ""


def _fence(core, reason: str) -> None:
    logger.error("engine is fenced: %s", reason)
    first = not fence_of(core)
    core._weft_fence = reason
    core.set_weight_version("fenced")
    if not first:
        return
    # Engines of a data-parallel group pause only together; there, refusing
    # requests is all that one of them can do.
    if hasattr(core, "dp_group"):
        return
    resume_to = core.scheduler.pause_state
    try:
        core.pause_scheduler("abort")
    except Exception as error:
        logger.error("could not drop caches of a fenced engine: %s", error)
    core._weft_resume_to = resume_to


def _heal(core) -> None:
    if not fence_of(core):
        return
    core._weft_fence = ""
    if core.get_weight_version() == "fenced":
        core.set_weight_version("default")  # vLLM's word for no label
    resume_to = getattr(core, "_weft_resume_to", None)
    if resume_to is not None:
        core._weft_resume_to = None
        core.scheduler.set_pause_state(resume_to)
    logger.info("engine is healed")


def _refused_while_fenced(original, core, *args, **kwargs):
    reason = fence_of(core)
    if reason:
        raise WeftError("the engine is fenced, its weights may be torn "
                        f"({reason}); an update that succeeds heals it")
    return original(core, *args, **kwargs)


def _add_request(original, front_end, *args, **kwargs):
    core = getattr(front_end.engine_core, "engine_core", None)
    if core is None:
        return original(front_end, *args, **kwargs)
    return _refused_while_fenced(
        lambda _, *a, **k: original(front_end, *a, **k), core, *args, **kwargs)


def _pause_scheduler(original, core, *args, **kwargs):
    core._weft_resume_to = None
    return original(core, *args, **kwargs)
