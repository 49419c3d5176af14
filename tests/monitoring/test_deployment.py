"""Compose file, Dockerfile and objects for Kubernetes: by their schema, and everything in them that can be run here."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from obsray.cli.command import _parser
from obsray.config import Config
from obsray.export import receivers
from obsray.monitoring import deployment, prometheus_files
from obsray.monitoring.dashboards import listed
from obsray.telemetry import credential
from tests.monitoring import dcgm_sample, live, schemas
from tests.monitoring.test_dashboards import MODELS, queries

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests/data/compose/compose-spec.json"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
COLLECTOR = yaml.safe_load((ROOT / "deploy/compose/otel-collector.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_compose_file_is_valid_by_its_specification():
    assert hashlib.sha256(SCHEMA.read_bytes()).hexdigest() == (
        "1f91e091f16b2dd50ab8860e02bb391d22df553d91c145eacedb1b6eff9c3f0e"
    )
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    validator.validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"services": {"a": {"imagee": "x"}}})


def test_everything_it_refers_to_is_there():
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (name, volume)
        for network in service.get("networks", ()):
            assert network in COMPOSE["networks"]
        for secret in service.get("secrets", ()):
            assert secret in COMPOSE["secrets"]
        for other, condition in service.get("depends_on", {}).items():
            assert other in SERVICES
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{other} never says that it is healthy"
        mode = service.get("network_mode", "")
        assert not mode.startswith("service:") or mode.removeprefix("service:") in SERVICES


def test_images_are_pinned_and_nothing_is_published_beyond_this_machine():
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"]), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), (name, port)
    for line in re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE):
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", line)


def test_the_image_is_built_in_stages_and_runs_as_nobody_special():
    assert DOCKERFILE.count("FROM ") == 2 and "--no-index" in DOCKERFILE
    users = re.findall(r"^USER (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert users and users[-1] == "10001:10001"
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE):
        assert all((ROOT / path).exists() for path in source.split())
    kept = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    assert all((ROOT / path).exists() for path in kept)


def commands():
    """The commands of obsray that containers run, health checks included."""
    found = {"Dockerfile": json.loads(re.search(r"HEALTHCHECK .* CMD (\[.*\])", DOCKERFILE)[1])[1:]}
    for name, service in SERVICES.items():
        if service["image"].startswith("obsray:"):
            found[name] = service["command"]
            if "test" in service["healthcheck"]:
                found[f"{name} health"] = service["healthcheck"]["test"][2:]
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_obsray_understands_what_containers_run(name):
    assert _parser().parse_args([str(word) for word in commands()[name]]).run
    settings = {key for key in SERVICES.get(name, {}).get("environment", {}) if not key.startswith("OTEL_")}
    assert settings <= {f"OBSRAY_{field.upper()}" for field in Config.__dataclass_fields__}


@pytest.mark.parametrize("name", ["head", "worker", "gpu-worker"])
@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_nodes_send_where_the_collector_listens(name, signal):
    """Traces at once; metrics, which Prometheus scrapes, if one variable says so."""
    environment = {
        key: re.sub(r"\$\{OBSRAY_METRICS_EXPORTER:-(\w+)\}", r"\1", value)
        for key, value in SERVICES[name]["environment"].items()
    }
    if signal == "metrics":
        assert receivers.Settings.read(environment, signal).endpoint == ""
        environment["OTEL_METRICS_EXPORTER"] = "otlp"
    there = urlsplit(receivers.Settings.read(environment, signal).endpoint)
    protocols = COLLECTOR["receivers"]["otlp"]["protocols"]
    assert there.hostname in SERVICES and there.path == f"/v1/{signal}"
    assert str(there.port) == protocols["http"]["endpoint"].rpartition(":")[2]
    networks = set(SERVICES[there.hostname]["networks"])
    assert networks & set(SERVICES[name]["networks"])


@pytest.mark.timeout(300)
def test_nodes_start_with_the_commands_of_their_containers_and_are_scraped(monkeypatch):
    """The head and a worker as in the compose file, on this machine: other ports, and storage in a directory."""
    # Paths of sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="obsray-compose-", dir="/tmp") as directory:
        _start_and_scrape(Path(directory), monkeypatch)


def _start_and_scrape(tmp_path, monkeypatch):
    token = tmp_path / "obsray_token"
    token.write_text("ab" * 32)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def run(*words):
        # In a process of its own: where sessions lie is decided once in a process.
        command = [sys.executable, "-m", "obsray.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(service, **changes):
        changes |= {"--token-file": str(token), "--node-manager-port": "0", "--metrics-export-port": "0"}
        given = []
        for word in map(str, SERVICES[service]["command"]):
            name, sign, _ = word.partition("=")
            given.append(f"{name}={changes[name]}" if sign and name in changes else word)
        return json.loads(run(*(word for word in given if word != "--block"), "--json"))

    try:
        head = start("head", **{"--port": "0", "--dashboard-port": "0", "--storage": str(tmp_path / "control")})
        assert str(tmp_path) in head["session_dir"]
        port = head["address"].rpartition(":")[2]
        start("worker", **{"--address": f"127.0.0.1:{port}"})
        written = tmp_path / "metrics_token"
        run("metrics", "--credential-of", str(token), "--output", str(written))
        assert written.read_text() == credential.of(bytes.fromhex("ab" * 32))
        targets = Path(head["session_dir"]) / "prometheus_targets.json"

        def nodes():
            found = json.loads(targets.read_text()) if targets.exists() else []
            return sorted(entry["labels"]["role"] for entry in found if entry["labels"]["role"] != "dashboard")

        live.wait_for("both nodes to be targets", lambda: nodes() == ["head", "node"])
        run("status", "--json")
    finally:
        ended = json.loads(run("stop", "--json"))["ended"]
    assert len(ended) == 2


def test_prometheus_of_the_compose_file_is_configured_right(tmp_path):
    text = (ROOT / "deploy/compose/prometheus.yml").read_text()
    config = yaml.safe_load(text)
    for job in config["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        assert set(found["names"]) <= set(SERVICES)
    nodes = config["scrape_configs"][0]["dns_sd_configs"][0]
    flags = [word for name in ("head", "worker") for word in SERVICES[name]["command"]]
    assert flags.count(f"--metrics-export-port={nodes['port']}") == 2
    (tmp_path / "token").write_text("x")
    shutil.copy(ROOT / "prometheus/obsray.rules.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(text.replace("/credentials/metrics_token", str(tmp_path / "token")))
    checked = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/obsray.rules.yml", "/credentials"} <= mounted


def test_pipelines_of_the_collector_are_made_of_parts_that_it_defines():
    config = yaml.safe_load((ROOT / "deploy/compose/otel-collector.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind]), (kind, names)
        assert pipeline["processors"][0] == "memory_limiter" and pipeline["processors"][-1] == "batch"
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    tempo = yaml.safe_load((ROOT / "deploy/compose/tempo.yaml").read_text())
    (otlp,) = tempo["distributor"]["receivers"]["otlp"]["protocols"].values()
    assert config["exporters"]["otlp/tempo"]["endpoint"] == f"tempo:{otlp['endpoint'].rpartition(':')[2]}"
    assert f":{tempo['server']['http_listen_port']}" in SERVICES["grafana"]["environment"]["TEMPO_URL"]
    assert config["exporters"]["prometheusremotewrite"]["endpoint"].startswith("http://prometheus:9090/api/v1/write")
    assert "--web.enable-remote-write-receiver" in SERVICES["prometheus"]["command"]


def test_grafana_of_the_compose_file_finds_what_is_mounted():
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounted["./grafana/dashboards"] == listed.FOLDER
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(listed.FOLDER) and (ROOT / "grafana/dashboards" / Path(home).name).exists()
    used = set(re.findall(r"\$(\w+_URL)", (ROOT / "grafana/provisioning/datasources/obsray.yaml").read_text()))
    assert used <= set(SERVICES["grafana"]["environment"])


def test_dcgm_is_asked_for_every_field_that_dashboards_and_alerts_show():
    rows = csv.reader((ROOT / "deploy/compose/dcgm-counters.csv").read_text().splitlines(), skipinitialspace=True)
    fields = {row[0]: row[1] for row in rows if not row[0].startswith("#")}
    assert set(fields.values()) <= {"gauge", "counter", "label"}
    text = " ".join(query for model in MODELS.values() for query in queries(model))
    text += " ".join(alert.expr for alert in prometheus_files.alerts())
    assert set(re.findall(r"DCGM_\w+", text)) <= set(fields)
    recorded = set(re.findall(r"^(DCGM_\w+)\{", live.RECORDED.read_text(), flags=re.MULTILINE))
    assert recorded == set(fields)
    jobs = SERVICES["dcgm-exporter"]["environment"]["DCGM_HPC_JOB_MAPPING_DIR"]
    writer, reader = SERVICES["gpu-worker"], SERVICES["dcgm-exporter"]
    assert f"gpu-jobs:{jobs}:ro" in reader["volumes"]
    assert f"gpu-jobs:{writer['environment']['OBSRAY_GPU_JOBS_DIRECTORY']}" in writer["volumes"]


MONITORS = {name: made for name, made in deployment.kubernetes().items() if "Monitor" in made["kind"]}


@pytest.mark.parametrize("name", MONITORS)
def test_a_monitor_is_selected_by_its_release_and_relabels_as_the_rules_expect(name):
    made = yaml.safe_load((ROOT / "deploy/kubernetes/monitoring" / name).read_text())
    assert made == MONITORS[name]
    assert made["apiVersion"] == "monitoring.coreos.com/v1"
    assert made["metadata"]["labels"]["release"] == deployment.RELEASE
    (endpoint,) = made["spec"].get("endpoints") or made["spec"]["podMetricsEndpoints"]
    assert ("endpoints" in made["spec"]) == (made["kind"] == "ServiceMonitor")
    labels = {relabeling["targetLabel"]: relabeling for relabeling in endpoint["relabelings"]}
    assert labels["kubernetes_node"]["sourceLabels"] == ["__meta_kubernetes_pod_node_name"]
    if "dcgm" not in name:
        assert labels["job"]["replacement"] == "obsray" and "cluster" in labels
        assert endpoint["authorization"]["credentials"]["key"]


@pytest.mark.parametrize("name", deployment.kubernetes())
def test_an_object_of_kubernetes_has_only_fields_that_its_kind_has(name):
    made = yaml.safe_load((ROOT / "deploy/kubernetes/monitoring" / name).read_text())
    validator = jsonschema.Draft7Validator(schemas.OPERATOR[made["kind"]])
    validator.validate(made)
    made["spec"]["endpoint"] = []
    assert not validator.is_valid(made)


@pytest.mark.parametrize(("file", "schema"), [("tempo", schemas.TEMPO), ("otel-collector", schemas.COLLECTOR)])
def test_a_configuration_has_only_fields_that_are_documented(file, schema):
    config = yaml.safe_load((ROOT / f"deploy/compose/{file}.yaml").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(config)
    for noun, value in config.items():
        assert not validator.is_valid({**config, noun: {**value, "misspelt": 1}}), noun


def test_what_dcgm_exporter_would_serve_is_made_of_what_it_is_asked_for():
    assert live.RECORDED.read_text() == dcgm_sample.text(), "run python -m tests.monitoring.dcgm_sample"
    families = {family.name: family for family in text_string_to_metric_families(dcgm_sample.text())}
    for field, (kind, told) in dcgm_sample.counters().items():
        assert families[field].type == kind and families[field].documentation == told
        assert all({"gpu", "UUID", "modelName", "Hostname"} <= set(s.labels) for s in families[field].samples)
    assert {s.labels.get("hpc_job") for family in families.values() for s in family.samples} == {"00000001", None}


def test_the_rules_in_kubernetes_are_those_of_prometheus(tmp_path):
    made = yaml.safe_load((ROOT / "deploy/kubernetes/monitoring/prometheusrule.yaml").read_text())
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == yaml.safe_load((ROOT / "prometheus/obsray.rules.yml").read_text())
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(made["spec"]))
    checked = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, timeout=60
    )
    assert checked.returncode == 0


def test_the_page_names_commands_that_exist():
    page = (ROOT / "docs/monitoring.md").read_text()
    lines = "".join(re.findall(r"^```\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)).splitlines()
    ours = [line.removeprefix("obsray ") for line in lines if line.startswith("obsray ")]
    assert len(ours) >= 2
    for line in ours:
        _parser().parse_args(shlex.split(line))
