"""Objects that live in processes of their own.

The children are forked from a server process that has imported the heavy
packages once: importing vLLM takes longer than all that a test does with it,
and the test's own process has threads (a catalog's), which forbids forking it.
"""

import multiprocessing
import traceback

# More than any call needs on a machine that is busy with other things.
DEADLINE_SECONDS = 240

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([
    "torch", "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "torch.distributed.fsdp", "torch.distributed.tensor",
    "megatron.core.models.gpt.gpt_model", "vllm",
    "vllm.v1.worker.cpu_worker", "vllm.v1.engine.llm_engine",
    "vllm.v1.executor.multiproc_executor",
    "vllm.model_executor.models.llama", "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3"])


class Child:
    """`factory(*args)` in a process of its own. tell() begins a call of one of
    its methods and result() waits for it, so that several children can work,
    or meet in a collective, at the same time."""

    def __init__(self, factory, *args):
        self._connection, theirs = _context.Pipe()
        # Not a daemon: an engine has worker processes of its own.
        self._process = _context.Process(target=_serve,
                                         args=(theirs, factory, args))
        self._process.start()
        theirs.close()

    def tell(self, method, *args):
        self._connection.send((method, args))

    def result(self):
        """Of the oldest call, the construction being the first. AssertionError
        with the child's traceback if it failed."""
        try:
            if not self._connection.poll(DEADLINE_SECONDS):
                raise AssertionError(
                    f"no answer within {DEADLINE_SECONDS} seconds")
            good, value = self._connection.recv()
        except EOFError:
            self._process.join(DEADLINE_SECONDS)
            raise AssertionError(f"the process ended with the exit code "
                                 f"{self._process.exitcode}") from None
        assert good, value
        return value

    def ask(self, method, *args):
        self.tell(method, *args)
        return self.result()

    def stop(self):
        """Ends the process, which has done its work or has failed."""
        self._connection.close()  # the child reads the end of its commands
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def ask_all(children, method, *args):
    """The results of the same call in all children, which run together."""
    for child in children:
        child.tell(method, *args)
    return [child.result() for child in children]


def _serve(connection, factory, args):
    """Answers calls until the other end is closed; then object.close()."""
    made = None

    def answer(function, arguments):
        nonlocal made
        try:
            value = function(*arguments)
            if made is None:
                made, value = value, None
            connection.send((True, value))
        except BaseException:
            connection.send((False, traceback.format_exc()))

    answer(factory, args)
    if made is None:
        return
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            break
        answer(getattr(made, method), arguments)
    made.close()
