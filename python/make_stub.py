"""Writes the type stub of the extension: make_stub.py FOLDER_OF_EXTENSION FILE.

UCX is not linked to the extension and need not be here, so it is loaded with
lazy binding, as weft/__init__.py does."""

import os
import pathlib
import sys

sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_LOCAL)
sys.path.insert(0, sys.argv[1])

import _native  # noqa: E402
from nanobind.stubgen import StubGen  # noqa: E402

stub = StubGen(_native)
stub.put(_native)
pathlib.Path(sys.argv[2]).write_text(stub.get())
