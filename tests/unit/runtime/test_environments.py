"""Environments on their way to workers: what is checked, inherited, packed and left out."""

from __future__ import annotations

import logging
import os
import zipfile

import pytest

from obsray import runtime_env
from obsray.core import parameters
from obsray.core.protocol.environment_key import environment_key
from obsray.core.runtime.environments import Environments, merge_descriptions
from obsray.core.runtime.executor import names_of_gpus
from obsray.core.runtime.logs import TextFormatter
from obsray.core.runtime.packages import Packages, Patterns, files_of
from obsray.job_config import JobConfig
from obsray.logging_config import LoggingConfig


@pytest.fixture
def project(tmp_path):
    """A directory with some files."""
    top = tmp_path / "project"
    (top / "pkg").mkdir(parents=True)
    (top / "main.py").write_text("A = 1\n")
    (top / "pkg" / "__init__.py").write_text("")
    (top / "pkg" / "data.csv").write_text("1,2\n")
    (top / "big.log").write_text("noise\n")
    (top / ".git").mkdir()
    (top / ".git" / "HEAD").write_text("ref\n")
    return top


def names(top, excludes=()):
    return [name for name, _ in files_of(top, list(excludes))]


@pytest.mark.parametrize(
    ("env", "error", "sentence"),
    [
        ({"conda": "x"}, ValueError, "not offered: start the program in that environment"),
        ({"uv": ["x"]}, ValueError, "not offered: give the same requirements as 'pip'"),
        ({"colour": 1}, ValueError, "no field 'colour'; the fields are: env_vars, working_dir"),
        ({"env_vars": {"A": 1}}, TypeError, "dict of str to str"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "cannot be an environment variable"),
        ({"working_dir": "/no/such/place"}, ValueError, "does not exist on this machine"),
        ({"working_dir": "s3://bucket/x.zip"}, ValueError, "remote files are not fetched"),
        ({"working_dir": 3}, TypeError, "must be a path"),
        ({"py_modules": "x"}, TypeError, "must be a list"),
        ({"excludes": ["*.log"]}, ValueError, "needs a working_dir"),
        ({"pip": {"packages": ["x"], "colour": 1}}, ValueError, "has no field 'colour'"),
        ({"pip": [1]}, TypeError, "list of requirements"),
        ({"py_executable": ""}, TypeError, "must be a command"),
        ({"worker_process_setup_hook": "nodots"}, ValueError, "module.function"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "must be > 0, or -1"),
        ({"config": {"eager": True}}, ValueError, "no field 'eager'"),
        ([], TypeError, "must be a dict"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once_with_advice(env, error, sentence):
    with pytest.raises(error, match=sentence):
        runtime_env.check(env)


def test_a_runtime_env_is_a_dict_that_is_checked_when_it_is_made():
    env = runtime_env.RuntimeEnv(env_vars={"A": "1"}, config=runtime_env.RuntimeEnvConfig(setup_timeout_seconds=9))
    assert env["env_vars"] == env.env_vars() == {"A": "1"} and env.to_dict() == dict(env)
    assert runtime_env.RuntimeEnv.deserialize(env.serialize()) == env
    with pytest.raises(ValueError, match="colour"):
        runtime_env.RuntimeEnv(colour="green")


def test_children_inherit_and_variables_add_up():
    parent = {"env_vars": {"A": "1", "B": "1"}, "working_dir": "/a", "excludes": ["x"]}
    child = {"env_vars": {"B": "2"}, "working_dir": "/b"}
    merged = runtime_env.merge(parent, child)
    assert merged == {"env_vars": {"A": "1", "B": "2"}, "working_dir": "/b"}
    assert runtime_env.merge(parent, None) == parent


def test_descriptions_merge_as_environments_do():
    parent = {"env_vars": {"A": "1"}, "working_dir": "p", "shown": '{"env_vars": {"A": "1"}, "working_dir": "/p"}'}
    merged = merge_descriptions(parent, {"env_vars": {"B": "2"}, "shown": '{"env_vars": {"B": "2"}}'})
    assert merged["env_vars"] == {"A": "1", "B": "2"} and merged["working_dir"] == "p"
    assert '"B": "2"' in merged["shown"] and '"/p"' in merged["shown"]


def test_nothing_asked_for_costs_nothing(tmp_path):
    assert Environments(tmp_path, 1 << 20).describe(None) is None
    assert list(tmp_path.iterdir()) == []


def test_the_key_forgets_what_only_people_read():
    assert environment_key({"env_vars": {"A": "1"}, "shown": "x"}) == environment_key({"env_vars": {"A": "1"}})
    assert environment_key({"working_dir": ("a",)}) == environment_key({"working_dir": ["a"]})
    assert environment_key(None) == environment_key({"shown": "x", "env_vars": {}}) == ""


def test_what_tools_leave_behind_and_what_is_excluded_stays_out(project):
    assert names(project) == ["big.log", "main.py", "pkg/__init__.py", "pkg/data.csv"]
    assert names(project, ["*.log", "/pkg/*.csv"]) == ["main.py", "pkg/__init__.py"]
    (project / ".gitignore").write_text("*.csv\n# comment\n!pkg/data.csv\nbig.*\n")
    assert names(project) == [".gitignore", "main.py", "pkg/__init__.py", "pkg/data.csv"]


@pytest.mark.parametrize(
    ("pattern", "path", "is_directory", "out"),
    [
        ("*.log", "a/b.log", False, True),
        ("/*.log", "a/b.log", False, False),
        ("build/", "build", False, False),
        ("build/", "x/build", True, True),
        ("a/**/z", "a/b/c/z", False, True),
        ("[ab].py", "b.py", False, True),
        ("[!ab].py", "b.py", False, False),
        ("a?c", "abc", False, True),
    ],
)
def test_patterns_mean_what_they_mean_to_git(pattern, path, is_directory, out):
    patterns = Patterns()
    patterns.add([pattern])
    assert patterns.excludes(path, is_directory) is out


def test_a_package_is_named_by_what_is_in_it_and_made_once(project, tmp_path):
    packages = Packages(tmp_path / "packages", 1 << 20)
    first = packages.directory(str(project), "", [])
    assert packages.directory(str(project), "", []) == first
    (project / "main.py").write_text("A = 22\n")
    second = packages.directory(str(project), "", [])
    assert second != first
    (project / "main.py").write_text("A = 1\n")
    assert packages.directory(str(project), "", []) == first
    assert sorted(path.stem for path in (tmp_path / "packages").iterdir()) == sorted({first, second})
    with zipfile.ZipFile(tmp_path / "packages" / f"{first}.zip") as archive:
        assert archive.read("main.py") == b"A = 1\n"


def test_links_are_followed_but_not_in_circles(project):
    os.symlink(project, project / "pkg" / "again")
    os.symlink(project / "main.py", project / "other.py")
    assert "other.py" in names(project) and not any("again" in name for name in names(project))


def test_too_much_is_refused_and_the_largest_files_are_named(project, tmp_path):
    (project / "weights.bin").write_bytes(bytes(5000))
    with pytest.raises(ValueError, match=r"more than the limit .*largest: weights.bin .*excludes"):
        Packages(tmp_path / "packages", 4000).directory(str(project), "", [])


def wheel(path, pure):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", "X = 7\n")
        archive.writestr("thing-1.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\n")
    return str(path)


def test_only_pure_wheels_are_modules(tmp_path):
    packages = Packages(tmp_path / "packages", 1 << 20)
    assert packages.file(wheel(tmp_path / "thing-1-py3-none-any.whl", "true"))
    with pytest.raises(ValueError, match="compiled code and has to be installed: give it as 'pip'"):
        packages.file(wheel(tmp_path / "thing-1-cp311-linux.whl", "false"))
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"not a readable \.zip"):
        packages.file(str(tmp_path / "broken.zip"))


def test_a_mistyped_parameter_names_the_one_that_was_meant():
    with pytest.raises(RuntimeError, match="did you mean 'num_cpus'"):
        parameters.refuse({"numcpus": 1}, ["num_cpus", "num_gpus"])
    with pytest.raises(RuntimeError, match="not offered: tasks always run in worker processes"):
        parameters.refuse({"local_mode": True}, [])
    parameters.refuse({"local_mode": False}, [])


def test_the_devices_a_program_may_see_limit_what_it_can_offer(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    parameters.check_gpus(8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    parameters.check_gpus(2)
    with pytest.raises(ValueError, match="shows 2"):
        parameters.check_gpus(3)
    assert names_of_gpus([1], "GPU-a,GPU-b") == ["GPU-b"] and names_of_gpus([3], "2,3") == ["3"]


def test_the_dashboard_listens_on_this_machine_alone():
    with pytest.raises(ValueError, match="tunnel"):
        parameters.check_dashboard("0.0.0.0", None)
    parameters.check_dashboard("localhost", 8265)


def test_what_init_says_wins_over_its_job_config():
    job = JobConfig(ray_namespace="config", runtime_env={"env_vars": {"A": "1"}}, metadata={"team": "x"})
    assert parameters.job_of(job, None, None)[1:] == ("config", {"env_vars": {"A": "1"}})
    assert parameters.job_of(job, "here", {"env_vars": {"B": "1"}})[1:] == ("here", {"env_vars": {"B": "1"}})
    with pytest.raises(TypeError, match="job_config"):
        parameters.job_of({"colour": 1}, None, None)
    with pytest.raises(ValueError, match="default_actor_lifetime"):
        JobConfig(default_actor_lifetime="eternal")


def test_a_log_record_as_text_has_its_ids_and_its_time_behind_the_message():
    shown = {"name": "mine", "msg": "hello", "levelname": "INFO", "filename": "f.py", "lineno": 3, "created": 2}
    record = logging.makeLogRecord({**shown, "job_id": "01", "actor_name": "counter", "task_id": "", "colour": "green"})
    line = TextFormatter(["name"]).format(record)
    behind = "name=mine job_id=01 actor_name=counter colour=green timestamp_ns=2000000000"
    assert line.endswith(f"INFO f.py:3 -- hello {behind}")


def test_a_logging_config_is_checked_when_it_is_made():
    assert LoggingConfig("JSON", "DEBUG", ["name"]) == LoggingConfig("JSON", "DEBUG", ["name"])
    for arguments in ({"encoding": "XML"}, {"log_level": "LOUD"}, {"additional_log_standard_attrs": ["colour"]}):
        with pytest.raises(ValueError, match=r"must be one of|not a log level|no attribute"):
            LoggingConfig(**arguments)
    assert parameters.logging_of(True, "DEBUG", None, None)["level"] == logging.DEBUG
