"""What must happen in vLLM's engine core around a refit.

A worker owns weights; the scheduler, the prefix cache and the request queue
belong to the engine core, often in another process. The plug-in runs there
too, so it wraps methods of EngineCore. They do something only if the weight
transfer backend is "weft":

- collective_rpc of a weight transfer call: every rank's answer is heard, also
  after one has failed, and all failures are told at once. Between steps only:
  the core calls it from the loop that steps, and a worker takes calls and
  steps from one queue, so without a pause too each forward pass runs wholly
  under the old or wholly under the new weights.
- collective_rpc("update_weights"), after a success: the prefix, connector,
  multimodal and encoder caches are dropped, whatever the caller of /pause
  asked for, for keys and values of old weights do not outlive them. Running
  requests are recomputed and go on. The version label becomes that of the
  weights at once, so that no token is labelled older than it is; a label given
  to finish_weight_update replaces it.
- the same after a failure that may have torn weights, or left ranks with
  different ones: running requests are aborted, the scheduler stops, and the
  core is fenced.
- preprocess_add_request, resume_scheduler, set_weight_version: refused while
  fenced, with the reason. (An engine core in the process of its front end is
  asked before the front end books the request: it would wait for it for ever.)
- pause_scheduler: remembered, so that healing does not resume what an
  operator paused.
"""

from __future__ import annotations

import functools

from vllm.logger import init_logger

from .errors import BadInput, WeftError

logger = init_logger("vllm.weft.core_guard")  # below "vllm" it has a handler

_MARK = "_weft_guard"
_FENCED = "fenced"  # the label of a fenced engine
_START, _UPDATE = "start_weight_update", "update_weights"
_SESSION_CALLS = {_START, _UPDATE, "finish_weight_update"}
_TRANSFER_CALLS = _SESSION_CALLS | {"init_weight_transfer_engine",
                                    "shutdown_weight_transfer_engine"}


def install() -> None:
    """Wraps the methods; once, however often it is called."""
    from vllm.v1.engine import core, llm_engine

    _wrap(core.EngineCore, "collective_rpc", _collective_rpc)
    for name in ("preprocess_add_request", "set_weight_version"):
        _wrap(core.EngineCore, name, _refused_while_fenced)
    for owner in (core.EngineCore, core.EngineCoreProc, core.DPEngineCoreProc):
        if "resume_scheduler" in vars(owner):
            _wrap(owner, "resume_scheduler", _refused_while_fenced)
        if "pause_scheduler" in vars(owner):
            _wrap(owner, "pause_scheduler", _pause_scheduler)
    _wrap(llm_engine.LLMEngine, "add_request", _add_request)


def fence_of(core) -> str:
    """Why the core must not serve; empty if it may."""
    return getattr(core, "_weft_fence", "")


# ---- in a worker -----------------------------------------------------------

def call_in_worker(worker, method, args, kwargs):
    """(failure, why it must not serve, committed version); the failure is None
    or (class, text). It does not raise: vLLM's executor stops reading at the
    first rank that did, and takes what it left unread for answers to the next
    calls."""
    failure = None
    try:
        getattr(worker, method)(*args, **kwargs)
    except (WeftError, KeyboardInterrupt) as error:
        failure = (type(error), str(error))
    except Exception as error:
        logger.exception("%s failed", method)
        failure = (RuntimeError, str(error) or type(error).__name__)
    engine = getattr(worker, "weight_transfer_engine", None)
    return (failure, getattr(engine, "fenced_reason", ""),
            getattr(engine, "committed", ""))


def end_session(worker) -> None:
    """As vLLM does it on a rank that failed: the ranks that succeeded must not
    refuse the next start."""
    worker.worker._weight_update_active = False
    worker.weight_transfer_engine.reset_weight_update_target()


# ---- in the engine core ----------------------------------------------------

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


def _collective_rpc(original, core, method, timeout=None, args=(), kwargs=None):
    if method not in _TRANSFER_CALLS:
        return original(core, method, timeout, args, kwargs)
    kwargs = kwargs or {}
    end_sessions = functools.partial(original, core, end_session)
    _before_call(core, method, args, kwargs, end_sessions)
    try:
        answers = original(core, call_in_worker, timeout,
                           (method, args, kwargs))
    except BaseException as error:  # no answer: a worker has died
        if method == _UPDATE:
            _fence(core, f"no answer to an update: {error!r}")
        raise
    failures = [(rank, *failure)
                for rank, (failure, _, _) in enumerate(answers) if failure]
    in_part = method == _START and len(failures) < len(answers)
    if failures and (method == _UPDATE or in_part):
        end_sessions()
    if method in _SESSION_CALLS:
        core._weft_unfinished = method == _UPDATE and not failures
    if method == _UPDATE:
        _after_update(core, answers)
    if failures:
        raise _joined(failures, len(answers))
    return [None] * len(answers)


def _before_call(core, method, args, kwargs, end_sessions) -> None:
    # Updated, but another replica was not, and so nobody finished.
    if method == _START and getattr(core, "_weft_unfinished", False):
        end_sessions()
    short = _too_short(core, *args, **kwargs) if method == _UPDATE else ""
    if short:
        end_sessions()
        raise BadInput(short)


def _too_short(core, update_info) -> str:
    """What is wrong with a list, which has an entry for each rank of each
    data-parallel replica; or ""."""
    parallel = core.vllm_config.parallel_config
    needed = (parallel.data_parallel_index + 1) * parallel.world_size
    if not isinstance(update_info, list) or len(update_info) >= needed:
        return ""
    return (f"update_info lists {len(update_info)} ranks, data-parallel "
            f"replica {parallel.data_parallel_index} takes the entries from "
            f"{needed - parallel.world_size} to {needed - 1}; give one for "
            "each rank of each replica")


def _joined(failures, num_ranks):
    """One exception for the failures of all ranks."""
    _, kind, first = failures[0]
    if len(failures) == num_ranks and all(
            text == first for _, _, text in failures):
        return kind(first)
    return kind("; ".join(f"rank {rank}: {text}" for rank, _, text in failures))


def _after_update(core, answers) -> None:
    """Fences the core or, if all is well, makes it one of the new version."""
    has_failed = any(failure for failure, _, _ in answers)
    reason = _reason_of(answers)
    if not reason and not has_failed:
        try:
            core._reset_caches()
        except Exception as error:
            reason = f"caches of old weights could not be dropped: {error}"
    if reason:
        _fence(core, reason)
        if not has_failed:
            raise WeftError("the update has come, but the engine is fenced: "
                            f"{reason}; update again")
    elif not has_failed:
        _heal(core)
        core.set_weight_version(answers[0][2])


def _reason_of(answers) -> str:
    """Why the workers together must not serve, or ""."""
    reasons = [f"rank {rank}: {reason}"
               for rank, (_, reason, _) in enumerate(answers) if reason]
    if reasons:
        return "; ".join(reasons)
    held = [committed or "what it was started with"
            for _, _, committed in answers]
    if len(set(held)) > 1:
        # One rank failed, or "latest" became another version in between.
        return "ranks hold different versions: " + ", ".join(
            f"rank {rank} {version}" for rank, version in enumerate(held))
    return ""


def _fence(core, reason: str) -> None:
    logger.error("engine is fenced: %s", reason)
    first = not fence_of(core)
    if first:
        core.set_weight_version(_FENCED)
    core._weft_fence = reason
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
