"""weft chaos finds nothing wrong with Weft, and what is wrong with a Weft that
is broken on purpose."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from conftest import BINARY, SEED

CHECKER = pathlib.Path(__file__).parents[2] / "scripts/check_events.py"

PATIENCE = 1200  # seconds; a bound, not an expectation, as are those below


def chaos(tmp_path, *args, run=1):
    """(exit code, trials, the last line) of one run."""
    result = subprocess.run(
        [str(BINARY), "chaos", "--json", "--seed", str(SEED + run), "--logs",
         str(tmp_path), "--margin", "60", "--heal", "300", *map(str, args)],
        capture_output=True, text=True, timeout=PATIENCE, check=False)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines, result.stderr
    return result.returncode, lines[:-1], lines[-1]


def test_every_role_and_fault_at_once(tmp_path):
    code, trials, summary = chaos(tmp_path, "--trials", 12)
    assert code == 0, (trials, summary)
    assert summary["ok"] and summary["trials"] == len(trials) == 12
    assert summary["commits"] > 12
    # A few trials in a fleet that still heals may not come to their step.
    assert summary["reached"] >= 10
    assert not list(tmp_path.iterdir())


def checker_of(tmp_path, mutate):
    """The rules of scripts/check_events.py, for logs that `mutate`, lines of
    Python, has changed: `events` is the list of one file. It appends to `seen`
    how many there were."""
    path = tmp_path / "checker.py"
    path.write_text(f"""#!{sys.executable}
import json, os, subprocess, sys
files = []
for number, name in enumerate(sys.argv[1:]):
    lines = open(name).read().splitlines()
    # A last line may be cut.
    events = [json.loads(line) for line in lines if line.endswith("}}")]
    open({str(tmp_path / "seen")!r}, "a").write(f"{{len(events)}}\\n")
    kinds = [event["event"] for event in events]
{mutate}
    files.append(f"{{name}}.{{os.getpid()}}")
    open(files[-1], "w").writelines(json.dumps(e) + "\\n" for e in events)
sys.exit(subprocess.call([{str(CHECKER)!r}, *files]))
""")
    path.chmod(0o755)
    return path


def test_what_catalogs_wrote_is_checked(tmp_path):
    logs = tmp_path / "logs"
    code, trials, summary = chaos(
        logs, "--trials", 8, "--check-events", checker_of(tmp_path, ""))
    assert code == 0, (trials, summary)
    assert summary["rules_broken"] == 0
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    # Once a trial, of each catalog; a commit comes after six other events.
    assert len(seen) >= 8 and max(seen) > 7
    assert not logs.exists()


# The catalog says that a lease ended before its commit.
SWAPPED = """
    if "lease-released" in kinds:
        end = kinds.index("lease-released")
        commit = kinds.index("committed")
        events[commit]["event"] = "lease-released"
        events[end]["event"] = "committed"
"""


def test_a_log_that_breaks_a_rule_is_found(tmp_path):
    logs = tmp_path / "logs"
    code, trials, summary = chaos(
        logs, "--trials", 2, "--fleet", "stages-shm", "--role", "receiver",
        "--check-events", checker_of(tmp_path, SWAPPED))
    assert code == 1 and not summary["ok"]
    assert summary["torn"] == summary["hangs"] == 0
    assert summary["rules_broken"] > 0
    for trial in trials:
        log = pathlib.Path(trial["log"])
        assert "RULE: log " in log.read_text()
        assert "is released" in log.read_text()
        assert f"--only {trial['trial']}" in trial["repeat"]
        assert "--check-events" in trial["repeat"]
        # What was read is kept beside it, and is sound by itself.
        subprocess.run([CHECKER, f"{log}.events0.jsonl"], check=True)


def test_a_checker_that_fails_ends_the_run(weft):
    result = weft("chaos", "--trials", "1", "--role", "receiver",
                  "--check-events", shutil.which("false"))
    assert result.returncode == 1
    assert "false ends with 1" in result.stderr


# Of a dozen 1 to 8 are torn: in one dozen of some twenty, none.
DOZENS = 12


@pytest.mark.parametrize("broken", ["blind", "unfenced"])
def test_ranks_that_are_broken_on_purpose_are_found(tmp_path, broken):
    for run in range(1, 1 + DOZENS):
        code, trials, summary = chaos(
            tmp_path, "--trials", 12, "--broken", broken, "--step", "transfer",
            "--step", "verify", "--step", "mutate", "--role", "receiver",
            "--fault", "stop", "--role", "link", "--fault", "kill", run=run)
        if code != 0:
            break
    assert code == 1
    assert summary["torn"] > 0 and not summary["ok"]
    found = [trial for trial in trials if trial["torn"]]
    for trial in found:
        log = pathlib.Path(trial["log"]).read_text()
        assert "TORN: engine" in log
        assert f"--only {trial['trial']}" in trial["repeat"]
    if broken == "blind":
        assert any("elements of step" in pathlib.Path(trial["log"]).read_text()
                   for trial in found)


def test_the_seed_chooses_the_trials(tmp_path):
    def cells(*more):
        _, trials, _ = chaos(tmp_path, "--trials", 8, "--fault", "partition",
                             *more)
        return {t["trial"]: (t["fleet"], t["step"], t["role"]) for t in trials}
    first = cells()
    assert cells("--only", 3) == {3: first[3]}


def test_nothing_grows(tmp_path):
    code, _, summary = chaos(tmp_path, "--soak", 200, "--check-events",
                             CHECKER)
    assert code == 0, summary
    assert summary["rules_broken"] == []
    assert summary["commits"] >= 200
    assert {row["process"] for row in summary["processes"]} >= {
        "engine 0", "trainer 0", "catalog 0"}


def test_a_matrix_without_cells_is_refused(weft):
    result = weft("chaos", "--fleet", "none")
    assert result.returncode == 1
    assert "no cell" in result.stderr
