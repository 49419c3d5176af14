"""Every query of every dashboard returns data from a real Prometheus that scrapes a working cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import obsray
from obsray.cli import main
from obsray.metrics.catalog import METRICS
from obsray.monitoring import grafana
from obsray.telemetry import session_file
from obsray.testing.recorded_session import record_session
from obsray.util import collective, metrics
from obsray.util.placement_group import placement_group
from tests.monitoring.live import process_of, wait_for
from tests.monitoring.test_dashboards import MODELS, panels, queries

VARIABLES = {
    "$__rate_interval": "2m", "$__interval": "10s", "$__range": "5m", "$cluster": ".*", "$node": ".*", "$fn": ".*",
}  # fmt: skip


@obsray.remote
def array(size):
    return np.zeros(size, np.uint8)


@obsray.remote
def total(values):
    return int(values.sum())


@obsray.remote(num_cpus=0)
def elsewhere():
    return 1


@obsray.remote
def fails():
    raise ValueError("on purpose")


@obsray.remote(max_retries=2)
def dies_once(path):
    if not Path(path).exists():
        Path(path).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)


@obsray.remote
class Member:
    def join(self, rank):
        collective.init_collective_group(2, rank, backend="obsray", group_name="g")

    def add(self):
        values = np.ones(4)
        collective.allreduce(values, "g")
        return float(values[0])

    def count(self):
        metrics.Counter("live_calls", tag_keys=("kind",)).inc(3, {"kind": "x"})

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


def in_prometheus(query):
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query, query
    return query


def work(live, tmp_path):
    """A little of everything that dashboards show."""
    side = live.cluster.add_node(num_cpus=1, resources={"side": 2}, object_store_memory=48 << 20)
    there = array.options(resources={"side": 1}).remote(1 << 20)
    assert obsray.get(total.options(num_cpus=1).remote(there)) == 0, "bytes travel between nodes"
    assert obsray.get(total.options(resources={"side": 1}).remote(obsray.put(np.zeros(1 << 20, np.uint8)))) == 0
    kept = [obsray.put(np.zeros(9 << 20, np.uint8)) for _ in range(6)]
    assert [int(obsray.get(one)[0]) for one in kept] == [0] * 6, "spilled and restored"
    obsray.wait([fails.remote(), dies_once.remote(str(tmp_path / "once"))], num_returns=2, timeout=60)
    group = placement_group([{"CPU": 0.1}])
    assert group.wait(30)
    members = [Member.options(num_cpus=0, max_restarts=1).remote() for _ in range(2)]
    obsray.get([member.join.remote(rank) for rank, member in enumerate(members)])
    assert obsray.get([member.add.remote() for member in members]) == [2.0, 2.0]
    obsray.get(members[0].count.remote())
    members[1].die.remote()
    extra = Member.options(num_cpus=0).remote()
    obsray.get(extra.count.remote())
    obsray.kill(extra)
    assert obsray.get(total.options(runtime_env={"env_vars": {"LIVE": "1"}}).remote(np.zeros(3))) == 0
    return side, kept, group, members


@pytest.mark.timeout(900)
def test_every_query_of_every_dashboard_returns_data(live, tmp_path):
    held = work(live, tmp_path)
    assert obsray.get(elsewhere.options(resources={"extra": 1}).remote()) == 1, "the autoscaler adds a node"
    pending = [elsewhere.options(resources={name: 1}).remote() for name in ("nowhere", "launchpad")]
    left = {(uid, query) for uid, model in MODELS.items() for query in queries(model)}

    def all_answered():
        left.difference_update([each for each in left if live.prometheus.ask(in_prometheus(each[1]))])
        return not left

    try:
        wait_for("data", all_answered, lambda: obsray.get(total.remote(np.zeros(1))))
    except AssertionError as error:
        said = live.prometheus.troubles()
        raise AssertionError(
            f"{error}, {said}:\n" + "\n".join(f"{uid}: {query}" for uid, query in sorted(left))
        ) from None
    for _, query, _, _ in grafana.ANNOTATIONS:
        live.prometheus.ask(in_prometheus(query))
    for reference in pending:
        obsray.cancel(reference)
    del held


@pytest.mark.timeout(300)
def test_series_are_those_of_the_catalogue_and_counters_are_typed_so(live):
    obsray.get(total.remote(np.zeros(1)))
    wait_for("a scrape", lambda: live.prometheus.ask('obsray_tasks_finished_total{fn="total"} > 0'))
    types = live.prometheus.get("/api/v1/metadata")
    for metric in METRICS.values():
        if metric.name in types and metric.type != "info":
            assert {entry["type"] for entry in types[metric.name]} == {metric.type}, metric.name
    names = {name for name in live.prometheus.get("/api/v1/label/__name__/values") if name.startswith("obsray_")}
    known = {metric.exposed for metric in METRICS.values()} | {"obsray_build_info"}
    known |= {
        f"{m.name}_{end}" for m in METRICS.values() if m.type == "histogram" for end in ("bucket", "sum", "count")
    }
    assert {name for name in names - known if not name.startswith("obsray_user_")} == set()


@pytest.mark.timeout(300)
def test_an_exemplar_of_a_run_time_is_the_trace_of_a_task(live):
    obsray.get([total.remote(np.zeros(1)) for _ in range(5)])

    def exemplars():
        return live.prometheus.get(
            "/api/v1/query_exemplars", query="obsray_task_duration_seconds_bucket", start="0", end="9999999999"
        )

    found = wait_for("an exemplar", exemplars)
    labels = found[0]["exemplars"][0]["labels"]
    assert re.fullmatch(r"[0-9a-f]{32}", labels["trace_id"]) and re.fullmatch(r"[0-9a-f]{16}", labels["span_id"])


@pytest.mark.timeout(300)
def test_metrics_of_user_code_arrive_and_stay_when_their_worker_is_killed(live):
    member = Member.options(num_cpus=0).remote()
    obsray.get([member.count.remote() for _ in range(4)])
    member.die.remote()
    query = 'sum(obsray_user_live_calls_total{kind="x"})'
    first = wait_for("the counter", lambda: [s for s in live.prometheus.ask(query) if float(s["value"][1]) >= 12])
    again = wait_for(
        "a later scrape", lambda: [s for s in live.prometheus.ask(query) if s["value"][0] > first[0]["value"][0] + 2]
    )
    assert float(again[0]["value"][1]) >= float(first[0]["value"][1])


@pytest.mark.timeout(300)
def test_nodes_and_dashboard_push_what_is_scraped_of_them(live):
    facts = session_file.read(Path(live.head.session_dir))
    others = session_file.read(Path(live.other.session_dir))
    instances = {facts["node"], others["node"], f"{facts['node']}-dashboard"}
    wait_for("all to push", lambda: instances <= set(live.pushed.values))
    obsray.get([total.remote(np.zeros(1)) for _ in range(5)])

    def scraped():
        return float(live.prometheus.ask('sum(obsray_task_duration_seconds_count{fn="total"})')[0]["value"][1])

    wait_for("the same numbers", lambda: live.pushed.total("obsray_task_duration_seconds", fn="total") == scraped() > 5)
    assert live.pushed.total("obsray_dashboard_requests") > 0
    assert live.pushed.total("obsray_nodes", state="alive", cluster=facts["control_address_tcp"]) >= 2


@obsray.remote
def far():
    return 1


@pytest.mark.timeout(300)
def test_how_long_a_task_waited_is_counted_wherever_it_ran(live):
    obsray.get([far.options(resources={"left": 0.1}, num_cpus=0).remote() for _ in range(4)] + [far.remote()])
    query = 'sum(obsray_task_queue_seconds_count{fn="far"})'
    wait_for("five that waited", lambda: [s for s in live.prometheus.ask(query) if float(s["value"][1]) == 5])


def served(live):
    """Counters of the head, right now."""
    directory = Path(live.head.session_dir)
    key = (directory / "metrics_token").read_text()
    request = urllib.request.Request(
        session_file.read(directory)["metrics_url"], headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        if family.type == "counter" and (family.name not in METRICS or METRICS[family.name].events)
        for sample in family.samples
    }


STRANGE = [
    'quote"',
    "back\\slash",
    "new\nline\r",
    '{a="b"} 1',
    "\N{SNOWMAN} \u2028",
    "# EOF\n",
    "nothing\x00",
    "x" * 1000,
]


@pytest.mark.timeout(300)
def test_whatever_functions_and_tags_are_called_prometheus_reads_it(live):
    obsray.get([total.options(name=name).remote(np.zeros(1)) for name in STRANGE])
    counter = metrics.Counter("strange_calls", tag_keys=("kind",))
    for name in STRANGE:
        counter.inc(1, {"kind": name})
    query = 'obsray_tasks_finished_total{outcome="ok"} > 0'

    def names(query, label):
        return {sample["metric"][label] for sample in live.prometheus.ask(query)}

    wait_for("all of them", lambda: names(query, "fn") >= set(STRANGE[:6]))
    wait_for("their tags", lambda: len(names("obsray_user_strange_calls_total", "kind")) == len(STRANGE))
    assert len([name for name in names(query, "fn") if name.startswith(("nothing", "xxx")) and "…" in name]) == 2
    wait_for("a scrape without trouble", lambda: not live.prometheus.troubles())
    assert served(live), "the strict parser reads it too"


@pytest.mark.timeout(300)
def test_a_collector_that_is_killed_is_followed_by_one_that_counts_on(live):
    directory = Path(live.head.session_dir)
    obsray.get(total.remote(np.zeros(1)))
    before, url = served(live), session_file.read(directory)["metrics_url"]
    assert any(name[0].startswith("obsray_user_") for name in before), "those of user code, too"
    process_of("obsray.telemetry.process", live.head.session_dir).kill()
    wait_for("the next collector", lambda: session_file.read(directory)["metrics_url"] != url and served(live))

    def lower():
        after = served(live)
        return {name: (value, after.get(name)) for name, value in before.items() if after.get(name, 0) < value}

    # What had been taken over of other nodes and was not stored yet is asked for once more.
    left = {}
    try:
        wait_for("all that was counted", lambda: not (left.clear() or left.update(lower()) or left))
    except AssertionError as error:
        raise AssertionError(f"{error}: {left}") from None
    wait_for("nodes", lambda: live.prometheus.ask('obsray_nodes{state="alive"} >= 2'))


@pytest.mark.timeout(300)
def test_every_panel_leads_to_a_page_of_obsray(live):
    facts = session_file.read(Path(live.head.session_dir))
    token = (Path(live.head.session_dir) / "token").read_bytes().hex()
    links = {panel["links"][0]["url"] for model in MODELS.values() for panel in panels(model)}
    began = int(facts["started_at_ns"]) // 1_000_000
    for link in sorted(links):
        address = link.replace("${__from}", str(began)).replace("${__to}", str(began + 1500))
        assert str(began + 1500) in address, "the link leads to the time that is shown"
        place = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)["next"][0]
        request = urllib.request.Request(facts["dashboard_url"] + place, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200, place
            html = answer.read().decode()
        assert "where=" in place or 'class="instant"' in html, "the page says of which instant it is"


@pytest.mark.timeout(300)
def test_the_command_writes_files_with_which_prometheus_and_grafana_find_everything(live, tmp_path, capsys):
    session = ["--session", live.head.session_dir]
    places = ["--prometheus", str(tmp_path / "p"), "--grafana", str(tmp_path / "g")]
    assert main(["metrics", *session, *places, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {entry["labels"]["role"] for entry in answer["targets"]} >= {"head", "dashboard"}
    assert answer["service_discovery"].endswith("/api/prometheus/sd")
    checked = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "p" / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (provider,) = yaml.safe_load((tmp_path / "g/provisioning/dashboards/obsray.yaml").read_text())["providers"]
    assert {path.stem for path in Path(provider["options"]["path"]).glob("*.json")} == set(MODELS)
    sources = (tmp_path / "g/provisioning/datasources/obsray.yaml").read_text()
    assert "http://127.0.0.1:9090" in sources and "$" not in sources
    assert main(["metrics", *session]) == 0
    assert "/metrics" in capsys.readouterr().out


def test_a_session_without_metrics_and_a_place_that_cannot_be_written_are_told(live, tmp_path, capsys):
    assert main(["metrics", "--session", str(record_session(tmp_path / "s").directory)]) == 1
    assert "serves no metrics" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["metrics", "--session", live.head.session_dir, "--prometheus", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err
    assert main(["metrics", "--credential-of", str(tmp_path / "nothing")]) == 1
    assert main(["metrics", "--credential-of", str(tmp_path / "file")]) == 1
    assert "holds no token" in capsys.readouterr().err
