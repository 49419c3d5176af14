"""What a running runtime promises in small print."""

from __future__ import annotations

import os
import select

import pytest

from tests.integration.programs import PATIENCE_SECONDS, eventually, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)

HANDLES = """
import gc
gc.disable()  # a cycle would hide behind a collection that happens to come
start()

@obsray.remote
class Counter:
    def add(self, amount): return amount
    def pid(self): return os.getpid()

@obsray.remote
def use(counter):
    gc.disable()
    return obsray.get(counter.add.remote(2))

counter = Counter.remote()
say(pid=obsray.get(counter.pid.remote()), used=obsray.get([counter.add.remote(1), use.remote(counter)]))
listen()
del counter
say(dropped=True)
listen()
"""

SETTINGS = """
start(_system_config={"inline_bytes_max": 10, "telemetry": "off"})

@obsray.remote
def settings():
    from obsray.core.runtime.session import current
    session = current()
    return session.config.inline_bytes_max, type(session.emitter).__name__

say(settings=obsray.get(settings.remote()))
"""


def test_an_actor_ends_with_its_last_handle(program):
    driver = program(HANDLES)
    driver.hear()
    heard = driver.hear()
    assert heard["used"] == [1, 2]
    process = os.pidfd_open(heard["pid"])
    ended = select.poll()
    ended.register(process, select.POLLIN)
    assert not ended.poll(0)
    driver.tell("drop")
    assert driver.hear() == {"dropped": True}
    assert ended.poll(PATIENCE_SECONDS * 1000), "it lives on without a handle"
    os.close(process)


def test_a_setting_given_to_init_holds_in_workers(program):
    driver = program(SETTINGS)
    driver.hear()
    assert driver.hear()["settings"] == [10, "Silent"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ('{"no_such_setting": 1}', "'no_such_setting' is not a setting; the settings are: telemetry, "),
        ('{"workers_max": "many"}', "workers_max='many' is not int"),
    ],
)
def test_a_setting_that_is_none_is_refused_before_anything_starts(program, root, settings, sentence):
    driver = program(f"""
try:
    start(_system_config={settings})
except ValueError as error:
    say(error=str(error))
""")
    assert sentence in driver.hear()["error"]
    assert list(root.iterdir()) == []


WAITING = """
context = start()

@obsray.remote
def echo(value):
    return value

@obsray.remote
def gate(path):
    while not os.path.exists(path):
        time.sleep(0.005)

path = os.path.join(context.address_info["session_dir"], "gate")
argument = gate.remote(path)
result = echo.remote(argument)
open(path, "w").close()
obsray.get(result)
say(task=result.task_id().hex())
listen()
"""


def test_the_story_of_a_task_begins_with_its_submission(program):
    driver = program(WAITING)
    directory = driver.hear()["directory"]
    task = driver.hear()["task"]
    story = [line["event"] for line in views(directory).story(task)]
    assert story[:2] == ["task_submitted", "task_arguments_waiting"]


IDLE_OWNER = """
start(_system_config={"worker_idle_seconds": 0.1})

@obsray.remote(runtime_env={"env_vars": {"OWNER": "1"}})
def owner():
    return os.getpid(), [obsray.put(number) for number in range(3)]

pid, references = obsray.get(owner.remote())
say(pid=pid)
listen()
say(values=obsray.get(references))
del references
listen()
"""


def test_what_an_idle_worker_owns_outlives_its_idleness(program):
    """A worker with an environment of its own ends after a moment of rest, but not while others hold its objects."""
    driver = program(IDLE_OWNER)
    directory = driver.hear()["directory"]
    worker = os.pidfd_open(driver.hear()["pid"])
    eventually(lambda: views(directory).store.rows("worker_lingers"))
    driver.tell()
    assert driver.hear()["values"] == [0, 1, 2]
    ended = select.poll()
    ended.register(worker, select.POLLIN)
    assert ended.poll(PATIENCE_SECONDS * 1000), "it stays although nobody holds anything of it"
    os.close(worker)
