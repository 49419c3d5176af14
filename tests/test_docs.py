"""The pages say what is so: what they name exists, what exists is named, and what is generated is current."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import obsray
from obsray import errors
from obsray.config import Config
from obsray.core import options
from obsray.core.protocol import docs as lifecycle_docs
from obsray.core.protocol import lifecycle
from obsray.metrics.catalog import METRICS
from obsray.telemetry.events import BY_NAME
from scripts import generate_docs

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PAGES = [ROOT / name for name in ("ARCHITECTURE.md", "README.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))


def named(page: str, pattern: str) -> list[str]:
    """What stands in backticks on the page and matches, each once."""
    return sorted({text for text in re.findall(r"`([^`\n]+)`", page) if re.fullmatch(pattern, text)})


def code_map(page: str) -> dict[str, set[str]]:
    """Package -> the modules that its section of the code map names."""
    found: dict[str, set[str]] = {}
    package = ""
    for line in page.splitlines():
        if line.startswith("#"):
            package = line.lstrip("# ") if line.startswith("### ") else ""
        elif package and line.startswith("| `"):
            found.setdefault(package, set()).update(re.findall(r"`([\w.]+\.py)`", line.split("|")[1]))
    return found


def modules() -> dict[str, set[str]]:
    """Package -> its modules."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "obsray").rglob("*.py"):
        if path.name != "__init__.py":
            found.setdefault(str(path.parent.relative_to(ROOT)), set()).add(path.name)
    return found


def test_the_code_map_names_every_module_and_no_other():
    assert code_map(ARCHITECTURE) == modules()


@pytest.mark.parametrize("path", named(ARCHITECTURE, r"(obsray|tests|docs|scripts|benchmarks)/[\w/.-]+[\w]"))
def test_every_path_the_architecture_names_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("reference", named(ARCHITECTURE, r"tests/[\w/]+\.py(::\w+)?"))
def test_every_invariant_names_a_test_that_exists(reference):
    path, _, name = reference.partition("::")
    tests = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert not name or name in tests


def test_every_invariant_is_guarded_by_something():
    table = ARCHITECTURE.partition("## Invariants")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row[0].strip() for row in rows if "tests/" not in row[1] and "the same" not in row[1]] == []


@pytest.mark.parametrize("event", sorted(set(re.findall(r"\*`(\w+)`\*", ARCHITECTURE))))
def test_every_event_the_architecture_tells_of_exists(event):
    assert event in BY_NAME


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), link


def anchors(page: str) -> set[str]:
    """What a heading can be linked by."""
    titles = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", sorted(generate_docs.PAGES))
def test_a_generated_page_is_what_its_source_makes(path):
    assert (ROOT / path).read_text() == generate_docs.PAGES[path](), "run scripts/generate_docs.py"


def test_every_lifecycle_and_every_state_is_explained():
    page = lifecycle_docs.markdown()
    for states, table in lifecycle.TABLES.items():
        assert set(table) == set(states), f"{states.__name__} has a state without an entry"
        assert lifecycle.FIRST[states] in states
        assert all(f"| `{state.name}` | {state.value} |" in page for state in states)


def test_the_events_that_tell_of_a_state_exist():
    assert lifecycle_docs.announcing_events() <= BY_NAME.keys()


@pytest.mark.parametrize("name", Config.__dataclass_fields__)
def test_every_setting_is_used_and_says_in_its_name_what_it_counts(name):
    sources = [path for path in (ROOT / "obsray").rglob("*.py") if path.name != "config.py"]
    assert any(f".{name}" in path.read_text() for path in sources)
    assert generate_docs.unit(name) != "on, off" or name == "telemetry"


def test_every_metric_is_asked_for_by_a_dashboard_a_rule_or_the_page_about_monitoring():
    """What nobody asks for is not worth exporting: add a panel in obsray/monitoring/dashboards,"""
    asked = "".join(make() for path, make in generate_docs.PAGES.items() if path.startswith(("grafana", "prometheus")))
    asked += (ROOT / "docs/monitoring.md").read_text()
    words = {re.sub(r"_(bucket|sum|count|info)$", "", word) for word in re.findall(r"obsray_\w+", asked)}
    exported = {re.sub(r"_(bucket|sum|count|info)$", "", metric.exposed) for metric in METRICS.values()}
    assert exported - words == set()


def spoken_of(page: str) -> set[str]:
    """Names in backticks, without call brackets and quotes."""
    return {word for text in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", text)}


def test_the_page_about_the_api_speaks_of_every_name_option_parameter_and_error():
    words = spoken_of((ROOT / "docs/api-compatibility.md").read_text())
    kinds = (options.TASK_OPTIONS, options.ACTOR_OPTIONS, options.METHOD_OPTIONS)
    names = set(obsray.__all__) | set().union(*kinds) | set(inspect.signature(obsray.init).parameters)
    names |= {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    # Spoken of as "`placement_group` and its relatives", and as one line about the handles.
    names -= {"placement_group_bundle_index", "placement_group_capture_child_tasks", "ActorHandle"}
    assert names - words == set()


def test_every_decision_is_listed_and_numbered_without_gap():
    decisions = sorted(path.name for path in (ROOT / "docs/adr").glob("0*.md"))
    listed = re.findall(r"\]\((0\d+-[\w-]+\.md)\)", (ROOT / "docs/adr/README.md").read_text())
    assert listed == decisions
    assert [int(name[:4]) for name in decisions] == list(range(1, len(decisions) + 1))
    for name in decisions:
        text = (ROOT / "docs/adr" / name).read_text()
        assert text.startswith(f"# {name[:4]} ")
        for heading in ("## Context", "## Decision", "## Consequences"):
            assert heading in text, name


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("### a/b\n\n| `x.py`, `y.py` | `z.py` |\n", {"a/b": {"x.py", "y.py"}}),
        ("## a/b\n\n| `x.py` | text |\n", {}),
    ],
)
def test_the_code_map_is_read_as_it_is_written(page, found):
    assert code_map(page) == found


def test_anchors_are_made_as_a_browser_would_find_them():
    assert anchors("# Bird's eye view\n## `a` and b\n") == {"birds-eye-view", "a-and-b"}
