"""The whole path without a stand-in: a publisher, a catalog and the native
receiver refit a live vLLM, from a checkpoint's tensors in memory."""

import pytest
import torch

import engines
import tiny_models

weft = pytest.importorskip("weft")
if not hasattr(weft, "Receiver"):
    pytest.skip("the native extension is not built", allow_module_level=True)


def refit(llm, publisher, trained, values, step):
    """Publishes `values` as `step` and brings the engine to it."""
    with publisher.update():
        for name, tensor in trained.items():
            tensor.copy_(values[name])
    version = publisher.publish(step=step).version
    llm.start_weight_update()
    llm.update_weights({"update_info": {"version": version}})
    llm.finish_weight_update(weight_version=version)
    return version


def test_published_steps_reach_the_engine(tmp_path):
    config = tiny_models.config_of("qwen2", tied=False)
    a, b = (tiny_models.random_tensors(config, seed) for seed in (1, 2))
    llm = engines.start(tiny_models.write(tmp_path, config, a))
    answers_a = engines.answers(llm)
    trained = {name: tensor.clone() for name, tensor in a.items()}
    with weft.CatalogServer() as catalog:
        publisher = weft.Publisher(
            catalog=catalog.address, model="tiny", run_id="run",
            source=weft.tensors(trained))
        publisher.publish(step=1)
        llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog.address, "model": "tiny", "timeout": 60}})
        answers = {}
        for step, values in [(2, b), (3, a)]:
            version = refit(llm, publisher, trained, values, step)
            answers[step] = engines.answers(llm)
            assert llm.get_weight_version() == version
        llm.start_weight_update()
        with pytest.raises(Exception, match="before the first byte"):
            llm.update_weights({"update_info": {"version": "run:0:99",
                                                "timeout": 0.5}})
        assert engines.answers(llm) == answers_a
        llm.shutdown_weight_transfer_engine()
        publisher.close()
    assert answers[3] == answers_a and answers[2] != answers_a
    engines.stop(llm)


def test_a_later_engine_reads_from_this_one(tmp_path):
    config = tiny_models.config_of("qwen2", tied=False)
    a, b = (tiny_models.random_tensors(config, seed) for seed in (1, 2))
    llm = engines.start(tiny_models.write(tmp_path, config, a))
    trained = {name: tensor.clone() for name, tensor in a.items()}
    later = {name: torch.full_like(tensor, -7) for name, tensor in a.items()}
    with weft.CatalogServer() as catalog, \
            weft.Publisher(catalog=catalog.address, model="tiny", run_id="run",
                           source=weft.tensors(trained)) as publisher:
        llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog.address, "model": "tiny", "timeout": 60,
            "serve": True}})
        with weft.Receiver(catalog.address, "tiny",
                           weft.tensors(later)) as receiver:
            for step, values in [(1, a), (2, b)]:
                version = refit(llm, publisher, trained, values, step)
                for tensor in later.values():
                    tensor.fill_(-7)
                report = receiver.refit(version, timeout=60)
                sources = {peer["name"].split()[0]: peer["bytes"]
                           for peer in report.peers}
                assert sources.get("copy"), sources
                for name, tensor in later.items():
                    assert torch.equal(tensor, values[name]), (step, name)
        with pytest.raises(Exception, match="serve is 'yes'"):
            llm.init_weight_transfer_engine({"init_info": {
                "catalog": catalog.address, "model": "tiny",
                "serve": "yes"}})
        llm.shutdown_weight_transfer_engine()
    engines.stop(llm)


def test_a_trainer_that_has_lost_its_checkpoint_is_refused(tmp_path):
    config = tiny_models.config_of("qwen2", tied=False)
    a, b = (tiny_models.random_tensors(config, seed) for seed in (1, 2))
    llm = engines.start(tiny_models.write(tmp_path, config, a))
    trained = {name: tensor.clone() for name, tensor in a.items()}
    with weft.CatalogServer() as catalog:
        llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog.address, "model": "tiny", "timeout": 60,
            "refuse_lower_step": True}})
        with weft.Publisher(catalog=catalog.address, model="tiny",
                            run_id="run",
                            source=weft.tensors(trained)) as publisher:
            refit(llm, publisher, trained, b, 7)
            answers_b = engines.answers(llm)
        with weft.Publisher(catalog=catalog.address, model="tiny",
                            run_id="run", epoch=1,
                            source=weft.tensors(trained)) as publisher:
            with pytest.raises(Exception, match="step 0 is lower than step 7"):
                refit(llm, publisher, trained, a, 0)
            assert engines.answers(llm) == answers_b
        llm.shutdown_weight_transfer_engine()
    engines.stop(llm)
