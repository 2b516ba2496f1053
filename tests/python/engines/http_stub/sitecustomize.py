"""On the PYTHONPATH of a server under test: puts the fake receiver into the
engine's process, with versions from the folders WEFT_FAKE_VERSIONS names
("run:0:1=DIR,..."). A file "torn" beside them makes the next refit fail."""

import importlib.abc
import importlib.machinery
import os
import sys


class _Patch(importlib.abc.MetaPathFinder):
    """Patches weft.vllm.engine right after its import."""

    def find_spec(self, name, path=None, target=None):
        if name != "weft.vllm.engine":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.receiver_factory = _receiver

        spec.loader.exec_module = exec_module
        return spec


def _receiver(**arguments):
    import fake_receiver
    from safetensors.torch import load_file

    folders = dict(item.split("=") for item in
                   os.environ["WEFT_FAKE_VERSIONS"].split(","))

    class Receiver(fake_receiver.FakeReceiver):
        versions = {version: load_file(folder + "/model.safetensors")
                    for version, folder in folders.items()}

        @property
        def trouble(self):
            return "torn" if os.path.exists(
                os.environ["WEFT_FAKE_TROUBLE"]) else None

    return Receiver(**arguments)


if "WEFT_FAKE_VERSIONS" in os.environ:
    sys.meta_path.insert(0, _Patch())
