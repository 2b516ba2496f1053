"""vLLM's own server, its engine core in a process of its own: the routes, the
fence and the caches as a trainer's driver sees them."""

import os
import pathlib

import pytest

import serving
import tiny_models

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def server(tmp_path, plugin_path):
    config = tiny_models.config_of("qwen2", tied=False)
    for name, seed in (("a", 1), ("b", 2)):
        tiny_models.write(tmp_path / name, config,
                          tiny_models.random_tensors(config, seed))
    made = serving.Server(tmp_path / "a", tmp_path / "server.log", environment={
        "WEFT_FAKE_VERSIONS":
            f"run:0:1={tmp_path / 'a'},run:0:2={tmp_path / 'b'}",
        "WEFT_FAKE_TROUBLE": str(tmp_path / "torn"),
        "PYTHONPATH": os.pathsep.join([
            str(HERE / "http_stub"), str(HERE)])})
    made.trouble = tmp_path / "torn"
    try:
        yield made.wait(240)
    finally:
        made.close()


def test_routes(server):
    _, first = server.ask()
    assert isinstance(first, list), first
    status, text = server.call("/start_weight_update")
    assert status == 500 and "init_weight_transfer_engine first" in text
    status, text = server.init(catalog="nowhere:1", model="tiny")
    assert status == 200, text

    assert server.refit("run:0:2") == (200, "")
    assert server.label() == "run:0:2"
    _, second = server.ask()  # cached under A, and nobody paused or cleared
    assert second != first
    assert server.refit("run:0:1") == (200, "")
    assert server.ask() == (200, first)

    server.trouble.touch()
    status, text = server.refit("run:0:2")
    assert status == 500 and "peer 3 was lost" in text, text
    assert "heals it" in text
    status, text = server.ask()
    assert status == 500, text
    status, text = server.call("/resume")
    assert status == 500 and "engine is fenced" in text, text
    assert server.label() == "fenced"

    server.trouble.unlink()
    assert server.refit("run:0:2") == (200, "")
    assert server.label() == "run:0:2"
    assert server.ask() == (200, second)

    # Paused by an operator: still paused after a refit.
    assert server.call("/pause")[0] == 200
    assert server.refit("run:0:1") == (200, "")
    assert server.is_paused()
    assert server.call("/resume")[0] == 200
    assert server.ask() == (200, first)
