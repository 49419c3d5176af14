"""``obsray metrics``: where Prometheus finds the metrics of a cluster, and files for Prometheus and Grafana."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from obsray.cli import sessions
from obsray.cli.start import token_of
from obsray.dashboard import plain_json
from obsray.metrics import targets
from obsray.monitoring import files, prometheus_files, yaml_text
from obsray.monitoring.dashboards import listed
from obsray.telemetry import credential, session_file


def run(options: argparse.Namespace) -> int:
    """Print where the metrics are, and write what is asked for. Raises Problem for a session without metrics."""
    if options.credential_of:
        return _credential(Path(options.credential_of), options.output)
    directory = sessions.find(options.session)
    facts = session_file.read(directory)
    if facts.get("head") is False:
        raise sessions.Problem(
            f"{directory.name} is the session of a node that joined; the head knows where all metrics are",
            "Run this on the machine of the head, or give the head's session with --session.",
        )
    try:
        found: list[dict[str, Any]] = json.loads((directory / targets.FILE).read_bytes())
    except FileNotFoundError:
        raise sessions.Problem(
            f"{directory.name} serves no metrics (yet)", "Its collector says why: obsray logs collector."
        ) from None
    written = []
    try:
        if options.prometheus:
            written += write_prometheus(Path(options.prometheus), directory)
        if options.grafana:
            written += write_grafana(Path(options.grafana), options.prometheus_url)
    except OSError as error:
        raise sessions.Problem(
            f"{error.filename}: {error.strerror}", "Give a directory that can be written to."
        ) from None
    answer = {
        "targets": found,
        "targets_file": str(directory / targets.FILE),
        "credentials_file": str(directory / credential.FILE),
        "service_discovery": f"{facts['dashboard_url']}/api/prometheus/sd" if facts.get("dashboard_url") else None,
        "written": [str(path) for path in written],
    }
    print(plain_json.dumps(answer) if options.json else _text(answer, options), flush=True)
    return 0


def _credential(token_file: Path, output: str | None) -> int:
    """Print, or write, what scrapers of a cluster with that token may read with."""
    try:
        text = credential.of(token_of(token_file.read_bytes(), str(token_file)))
        if output is None:
            print(text)
        else:
            Path(output).write_text(text)
    except OSError as error:
        raise sessions.Problem(f"{error.filename}: {error.strerror}") from None
    return 0


def write_prometheus(place: Path, session: Path) -> list[Path]:
    """Configuration and rules for that session; returns what was written. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    made = prometheus_files.config(
        ["obsray.rules.yml"], str(session / targets.FILE), str(session / credential.FILE)
    )  # fmt: skip
    rules, config = place / "obsray.rules.yml", place / "prometheus.yml"
    rules.write_text(prometheus_files.rules())
    config.write_text(yaml_text.dump(made, f"Made by obsray metrics for {session.name}."))
    return [config, rules]


def write_grafana(place: Path, prometheus_url: str) -> list[Path]:
    """Dashboards and how Grafana finds them below ``place``; returns what was written. Raises OSError."""
    written = []
    for path, make in files.files().items():
        if path.startswith("grafana/"):
            target = place / path.removeprefix("grafana/")
            target.parent.mkdir(parents=True, exist_ok=True)
            text = make().replace("$PROMETHEUS_URL", prometheus_url).replace("$TEMPO_URL", "http://127.0.0.1:3200")
            target.write_text(text.replace(listed.FOLDER, str((place / "dashboards").absolute())))
            written.append(target)
    return written


def _text(answer: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [f"{entry['labels']['role']:10} http://{entry['targets'][0]}/metrics" for entry in answer["targets"]]
    lines += ["", f"targets      {answer['targets_file']}", f"credential   {answer['credentials_file']}"]
    if answer["service_discovery"]:
        lines.append(f"discovery    {answer['service_discovery']}")
    if options.prometheus:
        lines += [
            "", f"prometheus --config.file={Path(options.prometheus) / 'prometheus.yml'} "
            "--enable-feature=exemplar-storage --web.listen-address=127.0.0.1:9090",
        ]  # fmt: skip
    if options.grafana:
        where = Path(options.grafana).absolute() / "provisioning"
        lines += ["", f"GF_PATHS_PROVISIONING={where} grafana server --homepath /usr/share/grafana"]
    if not options.prometheus and not options.grafana:
        lines += ["", "files for Prometheus and Grafana:  obsray metrics --prometheus DIR --grafana DIR"]
    return "\n".join(lines)
