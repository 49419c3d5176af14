"""What the browser gets from us and from others is exactly what is written down, and none of it is inline."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import obsray.dashboard.app

HERE = Path(obsray.dashboard.app.__file__).parent
VENDOR = HERE / "static" / "vendor"
TEMPLATES = sorted((HERE / "templates").glob("*.html"))
ROW = re.compile(r"^\| (\S+) \| \S+ \| [\d.]+ \| [\w.-]+ \| \S+ \| ([0-9a-f]{64}) \|$", re.MULTILINE)


def test_third_party_files_are_what_their_table_says():
    listed = dict(ROW.findall((VENDOR / "README.md").read_text()))
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "README.md"
    }
    assert there == listed


def test_every_third_party_library_brings_its_licence():
    libraries = {path.name.split("-")[0] for path in VENDOR.iterdir() if path.name != "README.md"}
    assert {name for name in libraries if not list(VENDOR.glob(f"{name}*LICENSE*"))} == {"jetbrains"} - {"jetbrains"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_anything_inline(path):
    text = path.read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|hx-on|\|safe\b", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


@pytest.mark.parametrize(
    "path", [*TEMPLATES, HERE / "static" / "app.css", HERE / "static" / "app.js"], ids=lambda path: path.name
)
def test_nothing_is_fetched_from_elsewhere(path):
    assert not re.search(r"(?:https?:)?//(?!www\.w3\.org/)[a-z0-9]", path.read_text().replace("// ", ""))


def test_the_script_evaluates_no_text():
    assert not re.search(r"\beval\(|new Function|innerHTML|document\.write", (HERE / "static" / "app.js").read_text())


def test_every_file_a_page_names_is_there():
    named = set(re.findall(r'(?:src|href)="/static/([^"]+)"', "".join(path.read_text() for path in TEMPLATES)))
    assert named and all((HERE / "static" / name).is_file() for name in named)
    in_style = re.findall(r"url\(([^)]+)\)", (HERE / "static" / "app.css").read_text())
    assert in_style and all((HERE / "static" / name).is_file() for name in in_style)
