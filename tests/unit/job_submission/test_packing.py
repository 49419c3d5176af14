"""The files of a job's environment, on their way."""

from __future__ import annotations

import json
import zipfile

import pytest

from obsray.job_submission.packing import packed


@pytest.fixture
def sent(tmp_path):
    """Packs an environment; what was sent is in ``sent.files``."""

    def pack(env):
        pack.files = {}
        return packed(
            env, tmp_path / "made", 1 << 20, lambda path, name: pack.files.setdefault(name, path.read_bytes())
        )

    return pack


def test_a_directory_goes_as_one_package_without_what_is_excluded(sent, tmp_path):
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    (work / "main.py").write_text("print(1)")
    (work / "data" / "big.bin").write_text("x" * 100)
    env = sent({"working_dir": str(work), "excludes": ["data"], "env_vars": {"A": "1"}})
    (name,) = sent.files
    assert env == {"working_dir": f"package://{name}", "env_vars": {"A": "1"}}
    (tmp_path / "got.zip").write_bytes(sent.files[name])
    assert zipfile.ZipFile(tmp_path / "got.zip").namelist() == ["main.py"]
    assert sent({"working_dir": str(work), "excludes": ["data"]})["working_dir"] == env["working_dir"]


def test_modules_keep_their_names(sent, tmp_path):
    (tmp_path / "tool.py").write_text("x = 1")
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    env = sent({"py_modules": [str(tmp_path / "tool.py"), str(package), json]})
    assert env["py_modules"][0] == "package://tool.py" and len(sent.files) == 3
    (tmp_path / "got.zip").write_bytes(sent.files[env["py_modules"][1].removeprefix("package://")])
    assert zipfile.ZipFile(tmp_path / "got.zip").namelist() == ["pack/__init__.py"]


def test_a_file_of_requirements_is_read_here(sent, tmp_path):
    (tmp_path / "needs.txt").write_text("# what it needs\nrequests==2\n\nrich\n")
    assert sent({"pip": str(tmp_path / "needs.txt")})["pip"]["packages"] == ["requests==2", "rich"]


@pytest.mark.parametrize(
    ("env", "what"),
    [
        ({"working_dir": "/no/such/place"}, "does not exist"),
        ({"colour": "blue"}, "no field 'colour'"),
        ({"worker_process_setup_hook": print}, "functions are not sent"),
        ({"conda": "base"}, "not offered"),
    ],
)
def test_what_cannot_be_sent_is_said_at_once(sent, env, what):
    with pytest.raises(ValueError, match=what):
        sent(env)
    assert not sent.files
