"""A trainer that is started again and publishes a lower step than before."""

import json

from test_processes import (CALL_SECONDS, assert_holds, catalog,  # noqa: F401
                            checkpoint, publish, pull, start)


def test_a_lower_step_is_said_and_refused(weft, start, checkpoint,  # noqa: F811
                                          tmp_path):
    server = start("catalog", "--listen", "127.0.0.1:0", "--http", "none")
    catalog = server.event()["address"]  # noqa: F811
    before = publish(start, catalog, checkpoint, "hf", 0, version="run:0:7")
    assert before.event()["version"] == "run:0:7"
    willing = pull(start, catalog, "vllm:tp=1", 0)
    careful = start("pull", "--catalog", catalog, "--model", "m", "--layout",
                    "vllm:tp=1", "--rank", 0, "--control", "stdin", "--timeout",
                    CALL_SECONDS, "--refuse-lower-step")
    for engine in (willing, careful):
        engine.say("refit")
        assert engine.event()["version"] == "run:0:7"
    before.kill()
    publish(start, catalog, checkpoint, "hf", 0, version="run:1:2").event()
    expected = ("step 2 follows the higher step 7 of run:0:7: the trainer has "
                "gone back to a checkpoint, or to initial weights")

    status = weft("status", "--catalog", catalog)
    shown = [line for line in status.stdout.splitlines()
             if line.startswith("run:1:2")]
    assert len(shown) == 1 and expected in shown[0], status.stdout
    events = weft("events", "--catalog", catalog, "--json")
    reasons = [event.get("reason") for event in
               map(json.loads, events.stdout.splitlines())
               if event["event"] in ("takeover", "version-ready")]
    assert reasons == [None, 'epoch 1 of run "run" has taken over from epoch 0 '
                       'of run "run" after run:0:7', expected]

    willing.say("refit")
    assert willing.event()["version"] == "run:1:2"
    assert_holds(weft, willing, checkpoint, "vllm:tp=1", 0, 0,
                 tmp_path / "willing.safetensors")
    careful.say("refit")
    refused = careful.event()
    assert refused["code"] == "FAILED_PRECONDITION", refused
    assert ("its step 2 is lower than step 7 of run:0:7, which this receiver "
            "has committed") in refused["error"]
    assert not refused["fenced"]
    careful.say(f"save {tmp_path / 'careful.safetensors'}")
    assert careful.event()["event"] == "saved"

    server.child.terminate()
    log = server.child.stderr.read()
    assert f'model "m": version run:1:2: {expected}' in log, log
