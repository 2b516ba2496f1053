#!/usr/bin/env python3
"""Checks the models of the version protocol (model/*.pml) by spin: every
interleaving of a small fleet, and that each rule taken away is missed.

    scripts/check_model.py          the small sizes, some 2 minutes
    scripts/check_model.py --full   larger ones: minutes, 8 GB
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

MODELS = pathlib.Path(__file__).resolve().parent.parent / "model"

# Of each model: (what it shows, "safety" or "liveness", settings, whether an
# error is right).
ONE = ("NUM_EPOCHS=1",)
FAULTS = ("RESTARTS=1", "CUTS=1", "ENGINE_CUTS=1", "LOST_CALLS=1")
TORN = ("CELLS=2", *FAULTS)
HANG = ("HANGS=1", "NO_DEADLINE")
TAKEN = ("TRAINERS=2", "RESTARTS=1")
BACK = ("SHADOW", "ROLLBACKS=1")
SMALL = {"refit": [
    ("one trainer", "safety", ONE, False),
    ("a takeover", "safety", ("STEPS=1", "CELLS=1"), False),
    ("it heals", "liveness", ONE, False),
    ("without the latch", "safety", (*ONE, "NO_LATCH"), True),
    ("published too early", "safety", (*ONE, "EARLY_PUBLISH"), True),
    ("updates wait for ever", "liveness", (*ONE, "NO_REVOKE"), True),
    # Either of the two guards is enough by itself.
    ("leases alone", "safety", (*ONE, "NO_WORDS"), False),
    ("epoch words alone", "safety", (*ONE, "NO_LEASES"), False),
    ("neither", "safety", (*ONE, "NO_WORDS", "NO_LEASES"), True),
], "fan_out": [
    ("a copy", "safety", ("ENGINE_FAULTS=1",), False),
    ("a second set, and back", "safety", (*BACK, "ENGINE_FAULTS=1"), False),
    ("it heals", "liveness", (), False),
    ("it heals after a rollback", "liveness", BACK, False),
    ("a copy stands in", "safety",
     ("STANDS_IN", "TRAINER_FAULTS=2", "ENGINE_FAULTS=1"), False),
    ("a second set stands in, and back", "safety",
     (*BACK, "STANDS_IN", "TRAINER_FAULTS=1"), False),
    ("it heals after a copy stood in", "liveness",
     ("STANDS_IN", "TRAINER_FAULTS=1", "HEALS"), False),
    ("a copy leaves unseen", "safety",
     ("STANDS_IN", "TRAINER_FAULTS=1", "ENGINE_FAULTS=1", "LEAVES_UNSEEN"),
     True),
    ("one that stands in serves while it receives", "safety",
     ("STANDS_IN", "TRAINER_FAULTS=1", "NO_LEASES", "COPY_SERVES_ON"), True),
    ("a copy serves while it receives", "safety",
     ("NO_LEASES", "COPY_SERVES_ON"), True),
    ("a copy serves while it rolls back", "safety",
     (*BACK, "COPY_SERVES_ON"), True),
    ("a copy's word comes back", "safety", (*BACK, "WORD_COMES_BACK"), True),
    ("two versions after a switch", "safety", (*BACK, "KEEP_UNPROVEN"), True),
    ("a switch before the digests", "safety",
     ("SHADOW", "SWITCH_UNPROVEN"), True),
    ("a switch without the latch", "safety", ("SHADOW", "NO_LATCH"), True),
    # Copies wait for no lease: here only words are enough.
    ("leases alone", "safety", (*BACK, "NO_WORDS"), True),
    ("epoch words alone", "safety", (*BACK, "NO_LEASES"), False),
], "places": [
    ("lost places", "safety", (*TORN, "LATE_CALLS=1"), False),
    ("another run", "safety", TAKEN, False),
    ("it heals", "liveness", (*FAULTS, "EXPIRIES=1"), False),
    ("it heals from two restarts", "liveness", ("RESTARTS=2",), False),
    ("it heals after another run", "liveness", (*TAKEN, "STEPS=1"), False),
    ("a hung engine's lease expires", "liveness", HANG, False),
    ("a deadline needs no expiry", "liveness",
     ("HANGS=1", "KEEPER_LIVES"), False),
    ("leases that last for ever", "liveness", (*HANG, "NO_EXPIRY"), True),
    ("a renewal for a hung engine", "liveness", (*HANG, "KEEPER_LIVES"), True),
    ("nobody renews", "liveness", ("NO_RENEWALS",), True),
    # Either of the two guards is enough, but for calls that come late.
    ("leases alone", "safety", (*TORN, "NO_WORDS"), False),
    ("leases alone, a late call", "safety",
     (*TORN, "LATE_CALLS=1", "NO_WORDS"), True),
    ("epoch words alone, a late call", "safety",
     (*TORN, "LATE_CALLS=1", "NO_LEASES"), False),
    ("neither", "safety", ("CELLS=2", "NO_WORDS", "NO_LEASES"), True),
    ("a revoked lease is renewed", "safety",
     ("NO_WORDS", "RENEW_REVOKED"), True),
    ("a lease of before counts", "safety",
     ("RESTARTS=1", "NO_WORDS", "OLD_LEASES"), True),
    ("republished blindly", "safety",
     ("RESTARTS=1", "BLIND_REPUBLISH"), True),
    ("never republished", "liveness", ("RESTARTS=1", "NO_REPUBLISH"), True),
    ("the replaced one rejoins", "safety", (*TAKEN, "REJOIN_ANYHOW"), True),
    ("a refusal is forgotten", "safety", (*TAKEN, "FORGET_REFUSAL"), True),
    ("a place is looked for once", "liveness",
     ("RESTARTS=2", "LOOK_ONCE"), True),
    # What a catalog in memory cannot know when it is started again.
    ("the replaced one did not hear", "safety", (*TAKEN, "UNHEARD"), True),
]}
LARGE = {"refit": [
    ("a takeover", "safety", (), False),
    ("two engines", "safety", (*ONE, "RECEIVERS=2", "ENGINE_FAULTS=0"), False),
    ("it heals after a takeover", "liveness", ("STEPS=1", "CELLS=1"), False),
], "fan_out": [
    ("three versions", "safety", (*BACK, "STEPS=3"), False),
    ("replicas", "safety", ("TRAINERS=2", "TRAINER_FAULTS=1"), False),
    ("it heals from engines' deaths", "liveness", ("ENGINE_FAULTS=1",), False),
], "places": [
    ("all of it", "safety", ("TRAINERS=2", *TORN), False),
    ("a newer epoch", "safety", (*TAKEN, "CUTS=1", "SAME_RUN"), False),
    ("it heals after a newer epoch", "liveness",
     (*TAKEN, "STEPS=1", "SAME_RUN"), False),
]}


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True,
                          check=False)
    return done.returncode, done.stdout + done.stderr


def check(model, kind, settings, wants_error):
    """(errors, states stored)."""
    defines = [f"-D{setting}" for setting in settings]
    is_safety = kind == "safety"
    with tempfile.TemporaryDirectory() as folder:
        code, said = run("spin", "-a", *(["-DSAFETY"] if is_safety else []),
                         *defines, str(MODELS / f"{model}.pml"), cwd=folder)
        if code:
            raise RuntimeError(f"spin failed:\n{said}")
        options = ["-DNOCLAIM"] if is_safety else ["-DNFAIR=3"]
        # -w: what spin generates is not ours. An error is found in less time
        # than it takes to optimise.
        code, said = run("gcc", "-O0" if wants_error else "-O2", "-w", "-DCOLLAPSE", *options, "-o",
                         "pan", "pan.c", cwd=folder)
        if code:
            raise RuntimeError(f"gcc failed:\n{said}")
        _, said = run("./pan", "-m200000", *([] if is_safety else ["-a", "-f"]),
                      cwd=folder)
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"([\d.e+]+) states, stored", said)
    if not errors or not states:
        raise RuntimeError(f"pan said nothing:\n{said}")
    is_cut = "search not completed" in said or "max search depth" in said
    if is_cut and not int(errors[1]):
        raise RuntimeError(f"the search did not end:\n{said}")
    return int(errors[1]), int(float(states[1]))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true")
    lists = [SMALL, LARGE] if parser.parse_args().full else [SMALL]
    cases = [(model, *case) for each in lists
             for model, of_model in each.items() for case in of_model]
    failed = 0
    for model, shows, kind, settings, wants_error in cases:
        errors, states = check(model, kind, settings, wants_error)
        is_right = (errors > 0) == wants_error
        failed += not is_right
        print(f"{'ok  ' if is_right else 'FAIL'} {model:7} {kind:8} {shows}: "
              f"{'an error is found' if errors else 'no error'} in "
              f"{states:,} states {' '.join(settings)}", flush=True)
    print(f"model: {len(cases)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
