"""Starting weft_process.py and talking with it."""

import contextlib
import json
import pathlib
import queue
import signal
import subprocess
import sys
import threading

SCRIPT = pathlib.Path(__file__).parent / "weft_process.py"
PATIENCE = 240  # seconds; a bound, not an expectation


class Child:
    """A process that prints JSON lines and takes lines on standard input."""

    def __init__(self, *args):
        self.child = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, args)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.events = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def event(self, kind):
        event = self.events.get(timeout=PATIENCE)
        assert event is not None, "ended: " + self.child.stderr.read()
        assert event["event"] == kind, event
        return event

    def say(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(PATIENCE)

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(PATIENCE)
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def starting():
    """Yields start(args...); what it started is ended at the end."""
    started = []

    def start(*args):
        started.append(Child(*args))
        return started[-1]

    try:
        yield start
    finally:
        for child in reversed(started):
            child.close()
