"""Environments, logging and what belongs to a driver, in whole runtimes."""

from __future__ import annotations

import json
import zipfile

from tests.integration.programs import eventually, views

pytest_plugins = ["tests.integration.fixtures"]

INHERIT = """
project, module = os.environ["PROJECT"], os.environ["MODULE"]
start(runtime_env={"env_vars": {"A": "job", "B": "job"}})

@obsray.remote
def child():
    return [os.environ.get("A"), os.environ.get("B"), os.environ.get("C"), os.path.basename(os.getcwd())]

@obsray.remote
def parent():
    import part
    env = {"env_vars": {"C": "child"}}
    return {
        "part": part.VALUE, "first": sys.path[0] == os.getcwd(), "left_out": os.path.exists("noise.log"),
        "same": obsray.get(child.remote()), "more": obsray.get(child.options(runtime_env=env).remote()),
        "told": obsray.get_runtime_context().runtime_env["env_vars"], "here": os.path.basename(os.getcwd()),
    }

in_project = parent.options(
    runtime_env={"working_dir": project, "excludes": ["*.log"], "env_vars": {"B": "task"}}
)
reference = in_project.remote()
open(os.path.join(project, "part.py"), "w").write("VALUE = 'edited'")
say(**obsray.get(reference))
say(plain=obsray.get(child.remote()))

@obsray.remote(runtime_env={"py_modules": [module]})
class Uses:
    def value(self):
        import single
        return single.VALUE

say(value=obsray.get(Uses.remote().value.remote()))
listen()
"""


def test_tasks_run_in_a_copy_of_their_working_dir_and_children_inherit(program, tmp_path):
    project, module = tmp_path / "project", tmp_path / "single.py"
    project.mkdir()
    (project / "part.py").write_text("VALUE = 'submitted'")
    (project / "noise.log").write_text("noise")
    module.write_text("VALUE = 'module'")
    driver = program(INHERIT, PROJECT=str(project), MODULE=str(module))
    directory = driver.hear()["directory"]
    said = driver.hear()
    here = said["here"]
    assert said == {
        "part": "submitted", "first": True, "left_out": False, "same": ["job", "task", None, here],
        "more": ["job", "task", "child", here], "told": {"A": "job", "B": "task"}, "here": here,
    }  # fmt: skip
    assert driver.hear()["plain"][:3] == ["job", "job", None]
    assert driver.hear()["value"] == "module"
    view = views(directory)
    ready = eventually(lambda: (view.refresh(), [r for r in view.environments() if r["state"] == "READY"])[1])
    assert any(row["environment_bytes"] for row in ready) and any(row["workers"] for row in ready)
    (task,) = [row for row in view.tasks()["rows"] if row["name"] == "parent"]
    assert project.name in view.task(task["task_id"])["environment"]["description"]


FAIL = """
start()

def hook():
    raise ValueError("the hook says no")

@obsray.remote(runtime_env={"worker_process_setup_hook": hook})
def task():
    return 1

@obsray.remote(runtime_env={"py_executable": "/bin/false"})
class Actor:
    def method(self):
        return 1

@obsray.remote(runtime_env={"worker_process_setup_hook": lambda: obsray.put(1)})
def calls():
    return 1

for reference in (task.remote(), task.remote(), calls.remote(), Actor.remote().method.remote()):
    try:
        obsray.get(reference, timeout=30)
    except obsray.exceptions.RuntimeEnvSetupError as error:
        say(error=str(error))

@obsray.remote(runtime_env={"worker_process_setup_hook": lambda: os.environ.update(HOOKED="yes")})
def hooked():
    return os.environ.get("HOOKED")
say(hooked=obsray.get(hooked.remote()))
for env in ({"conda": "x"}, {"colour": 1}):
    try:
        obsray.remote(runtime_env=env)(lambda: 1)
    except ValueError as error:
        say(error=str(error))
"""


def test_what_cannot_be_made_is_an_error_of_its_tasks_with_the_reason(program):
    driver = program(FAIL)
    directory = driver.hear()["directory"]
    assert "the hook says no" in driver.hear()["error"]
    assert "the hook says no" in driver.hear()["error"]
    assert "runs before its process joins" in driver.hear()["error"]
    assert "py_executable /bin/false failed (exit code 1)" in driver.hear()["error"]
    assert driver.hear()["hooked"] == "yes"
    assert "not offered" in driver.hear()["error"] and "no field 'colour'" in driver.hear()["error"]
    assert driver.wait() == 0
    view = views(directory)
    view.refresh()
    assert sorted(row["state"] for row in view.environments()) == ["FAILED", "FAILED", "FAILED", "READY"]
    # Started for the first two tasks at the same time, and no more after them.
    assert 2 <= sum(row["died_cause"] == "start_failed" for row in view.workers()) <= 3


PIP = """
wheel = os.environ["WHEEL"]
start()

@obsray.remote(runtime_env={"pip": {"packages": [wheel], "pip_install_options": ["--no-index"]}})
def installed():
    import thing, numpy
    return [thing.VALUE, sys.prefix != sys.base_prefix]

@obsray.remote
def plain():
    import importlib.util
    return importlib.util.find_spec("thing") is None

say(installed=obsray.get(installed.remote()), plain=obsray.get(plain.remote()))
"""


def test_packages_are_installed_for_those_who_ask_and_nobody_else(program, tmp_path):
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/__init__.py", "VALUE = 7\n")
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr(
            "thing-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    driver = program(PIP, WHEEL=str(wheel))
    driver.hear()
    assert driver.hear() == {"installed": [7, True], "plain": True}


LOGS = """
import logging
start(
    namespace="space", job_config={"metadata": {"team": "blue"}}, _node_name="box",
    logging_config=obsray.LoggingConfig(encoding="JSON", log_level="DEBUG", additional_log_standard_attrs=["name"]),
)

@obsray.remote
def nested():
    context = obsray.get_runtime_context()
    return [context.get_job_id(), context.namespace]

@obsray.remote
def task():
    logging.getLogger("mine").debug("hello %d", 1, extra={"colour": "green"})
    return obsray.get_runtime_context().get_task_id(), obsray.get(nested.remote())

identifier, below = obsray.get(task.options(name="called").remote())
context = obsray.get_runtime_context()
say(task=identifier, below=below, job=context.get_job_id(), node=obsray.nodes()[0]["NodeName"],
    session=context.get_session_name(), temp=context.get_temp_dir(), ids=sorted(context.get()))
try:
    context.get_assigned_resources()
except AssertionError as error:
    say(error=str(error))
listen()
"""


def test_log_records_carry_ids_and_what_a_driver_says_holds_for_its_workers(program):
    driver = program(LOGS)
    directory = driver.hear()["directory"]
    said = driver.hear()
    assert said["below"] == [said["job"], "space"] and said["node"] == "box"
    assert f"{said['temp']}/{said['session']}" == directory and said["ids"] == ["job_id", "namespace", "node_id"]
    assert "only available inside tasks" in driver.hear()["error"]
    view = views(directory)

    def logged():
        lines = [line for path in view.store.session_dir.glob("logs/worker-*.err") for line in path.open()]
        return [json.loads(line) for line in lines if "hello" in line]

    (record,) = eventually(logged)
    assert record["message"] == "hello 1" and record["levelname"] == "DEBUG" and record["name"] == "mine"
    assert record["task_id"] == said["task"] and record["trace_id"] and record["job_id"] == said["job"]
    assert record["colour"] == "green"
    assert (record["task_name"], record["task_func_name"], "actor_name" in record) == ("called", "task", False)
    (job,) = eventually(view.jobs)
    assert (job["namespace"], json.loads(job["metadata"])) == ("space", {"team": "blue"})
    driver.tell()
    assert driver.wait() == 0
    (line,) = [line for line in driver.errors().splitlines() if "hello 1" in line]
    assert json.loads(line) == record, "a line of JSON reaches the driver as it is"
