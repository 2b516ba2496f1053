"""The smallest use of Weft: one process that publishes and receives.

    python examples/smallest.py

A trainer and an engine are two processes in earnest; see train_fsdp2.py.
"""

import numpy

import weft

with weft.CatalogServer() as catalog:
    trained = {"w": numpy.zeros((4, 1000), numpy.float32)}
    serving = {"w": numpy.full((4, 1000), -1, numpy.float32)}
    with weft.Publisher(catalog.address, "model", weft.tensors(trained)) as publisher, \
            weft.Receiver(catalog.address, "model", weft.tensors(serving)) as receiver:
        for step in range(3):
            with publisher.update():  # readers are fenced out meanwhile
                trained["w"] += 1
            print(publisher.publish(step))
            print(receiver.refit("latest"))
            assert (serving["w"] == trained["w"]).all()
