"""weft chaos finds nothing wrong with Weft, and what is wrong with a Weft that
is broken on purpose."""

import json
import pathlib
import subprocess

import pytest

from conftest import BINARY, SEED

PATIENCE = 240  # seconds; a bound, not an expectation


def chaos(tmp_path, *args):
    """(exit code, trials, the last line) of one run."""
    result = subprocess.run(
        [str(BINARY), "chaos", "--json", "--seed", str(SEED + 1), "--logs",
         str(tmp_path), *map(str, args)],
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


@pytest.mark.parametrize("broken", ["blind", "unfenced"])
def test_ranks_that_are_broken_on_purpose_are_found(tmp_path, broken):
    code, trials, summary = chaos(
        tmp_path, "--trials", 12, "--broken", broken, "--step", "transfer",
        "--step", "verify", "--step", "mutate", "--role", "receiver", "--fault",
        "stop", "--role", "link", "--fault", "kill")
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
    code, _, summary = chaos(tmp_path, "--soak", 200)
    assert code == 0, summary
    assert summary["commits"] >= 200
    assert {row["process"] for row in summary["processes"]} >= {
        "engine 0", "trainer 0", "catalog 0"}


def test_a_matrix_without_cells_is_refused(weft):
    result = weft("chaos", "--fleet", "none")
    assert result.returncode == 1
    assert "no cell" in result.stderr
