"""A trainer or a catalog as a process of its own; run with --help.

It prints an event (one line of JSON) at a time and takes commands as lines on
standard input; at the end of its input it ends.
"""

import argparse
import ctypes
import json
import mmap
import signal
import sys
import threading

import weft


def say(**event):
    print(json.dumps(event), flush=True)


def catalog(_):
    with weft.CatalogServer() as server:
        say(event="listening", address=server.address)
        sys.stdin.read()


def trainer(args):
    """Publishes tensors of a safetensors file; "publish STEP FILE" copies
    another file into the same memory first."""
    from safetensors.torch import load_file

    tensors = load_file(args.file)
    for name in args.without:
        del tensors[name]
    with weft.Publisher(args.catalog, args.model, weft.tensors(tensors),
                        epoch=args.epoch, transports=args.transports) as publisher:
        say(event="published",
            version=publisher.publish(step=args.step).version)
        if args.hold:
            hold(tensors[args.hold])
        for line in sys.stdin:
            _, step, file = line.split()
            with publisher.update():
                for name, value in load_file(file).items():
                    tensors[name].copy_(value)
            say(event="published",
                version=publisher.publish(step=int(step)).version)


def hold(tensor):
    """From now on, the thread that reads the middle of `tensor` says so and
    stops there: a peer is then in the middle of its refit for as long as this
    process lives. For transports that read in the publisher's process."""
    middle = tensor.data_ptr() + tensor.numel() * tensor.element_size() // 2
    page = middle - middle % mmap.PAGESIZE
    assert tensor.data_ptr() <= page, "the tensor is less than two pages"
    libc = ctypes.CDLL(None, use_errno=True)
    # A fault is delivered to the thread that made it, and this one does not
    # return to it.
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGSEGV, ctypes.cast(STOP, ctypes.c_void_p))
    no_access = 0
    if libc.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, no_access) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    say(event="armed")


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def STOP(_):
    say(event="held")
    threading.Event().wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(required=True)
    kinds.add_parser("catalog").set_defaults(run=catalog)
    publish = kinds.add_parser("trainer")
    publish.set_defaults(run=trainer)
    publish.add_argument("--catalog", required=True)
    publish.add_argument("--model", required=True)
    publish.add_argument("--file", required=True)
    publish.add_argument("--epoch", type=int, default=0)
    publish.add_argument("--step", type=int, default=1)
    publish.add_argument("--transports", default="auto")
    publish.add_argument("--without", action="append", default=[])
    publish.add_argument("--hold", help="a tensor; see hold()")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
