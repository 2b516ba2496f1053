"""Finds UCX when the package is imported: the extension is not linked against
it, so one wheel runs with the operator's UCX, with the one of PyPI
(libucx-cu13), or without any."""

import ctypes
import importlib.util
import os
import pathlib

_LIBRARY = "libucp.so.0"  # brings libuct, libucs and libucm


def _pypi_folder():
    spec = importlib.util.find_spec("libucx")
    if spec is None or not spec.submodule_search_locations:
        return None
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "lib"


def load():
    """Loads UCX for all to see: WEFT_UCX_LIB_DIR, else the system's, else the
    one of PyPI. Returns where it came from, or None."""
    folders = []
    if os.environ.get("WEFT_UCX_LIB_DIR"):
        folders.append(pathlib.Path(os.environ["WEFT_UCX_LIB_DIR"]))
    else:
        folders.append(None)
        folders.append(_pypi_folder())
    for folder in folders:
        try:
            path = _LIBRARY if folder is None else str(folder / _LIBRARY)
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return "the system" if folder is None else str(folder)
    return None
