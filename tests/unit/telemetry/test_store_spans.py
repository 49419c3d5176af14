"""Objects that go to disk and come back are told below the tasks that wanted the room, or the object."""

from __future__ import annotations

import pytest

from obsray.export.gpu_spans import whole
from obsray.export.span import Span
from tests.unit.telemetry.scenes import Scene

SIZE = 30_000_000


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "session")


def running(scene: Scene, name: str) -> tuple[bytes, bytes]:
    worker, task = scene.worker(), scene.submit(name)
    scene.dispatch(task, worker)
    scene.start(task, worker)
    return task, worker


def told(scene: Scene) -> list[Span]:
    view = scene.views()
    view.refresh()
    return list(whole(view))


def test_they_are_below_who_wanted_the_room_or_the_object_and_linked_to_who_made_it(scene):
    maker = scene.worker()
    made = scene.result(scene.run("maker", maker))
    (needs, wants), (reader, reads) = running(scene, "needs_room"), running(scene, "reader")
    node = scene.node
    node.object_allocation_waiting(scene.tick(0.1), scene.result(needs), wants, SIZE, 0, SIZE, 0)
    node.object_spilled(scene.tick(0.2), made, SIZE, 0.19, 0)
    scene.end(needs, wants, 0.5)
    node.object_restored(scene.tick(0.3), made, SIZE, 0.25, 0)
    node.object_pinned(scene.tick(), made, reads, SIZE, 0.3)
    node.object_pinned(scene.tick(), made, maker, SIZE, 0.0)
    scene.end(reader, reads, 1.0)
    named = {span.name: span for span in told(scene)}
    for name, asker in (("object spill", "needs_room"), ("object restore", "reader")):
        assert (named[name].parent, named[name].trace) == (named[asker].span, named[asker].trace)
        assert [span for _, span, _ in named[name].links] == [named["maker"].span]


def test_what_a_driver_caused_is_in_the_trace_of_the_object_and_below_nobody(scene):
    made = scene.result(scene.run("maker", scene.worker()))
    driver, node = scene.driver.process, scene.node
    node.object_allocation_waiting(scene.tick(), made, driver, SIZE, 0, SIZE, 0)
    node.object_spilled(scene.tick(0.2), made, SIZE, 0.19, 0)
    node.object_restored(scene.tick(0.3), made, SIZE, 0.25, 0)
    node.object_pinned(scene.tick(), made, driver, SIZE, 0.3)
    spans = [span for span in told(scene) if span.name.startswith("object ")]
    maker = next(span for span in told(scene) if span.name == "maker")
    assert len(spans) == 2 and {(span.parent, span.trace) for span in spans} == {(0, maker.trace)}
