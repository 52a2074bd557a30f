"""What lies under deploy/ is what Docker, Compose and Kubernetes read, and starts what exists."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from led_sglang.cli import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
KUBERNETES = "1.34"

# The fields of LeaderWorkerSet v1, written after its API reference; the pods have schemas of
# Kubernetes' own.
_INTEGER = {"type": "integer", "minimum": 0}
_TEMPLATE = {"type": "object", "required": ["spec"]}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


LEADER_WORKER_SET = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "leaderworkerset.x-k8s.io/v1"},
    kind={"const": "LeaderWorkerSet"},
    metadata={"type": "object", "required": ["name"]},
    spec=_object(
        ("leaderWorkerTemplate",),
        replicas=_INTEGER,
        leaderWorkerTemplate=_object(
            ("workerTemplate",),
            leaderTemplate=_TEMPLATE,
            workerTemplate=_TEMPLATE,
            size={"type": "integer", "minimum": 1},
            restartPolicy={"enum": ["Default", "RecreateGroupOnPodRestart", "None"]},
            subGroupPolicy={"type": "object"},
        ),
        rolloutStrategy={"type": "object"},
        startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        networkConfig=_object(subdomainPolicy={"enum": ["Shared", "UniquePerReplica"]}),
    ),
)


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "leaderworkerset.yaml").read_text()))


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise what is wrong with one object of Kubernetes."""
    if manifest["kind"] != "LeaderWorkerSet":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    jsonschema.validate(manifest, LEADER_WORKER_SET)
    for pod in pods(manifest):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods that a LeaderWorkerSet makes."""
    group = manifest["spec"]["leaderWorkerTemplate"]
    for role in ("leaderTemplate", "workerTemplate"):
        metadata = {**group[role].get("metadata", {}), "name": role.lower()}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": group[role]["spec"]}


def test_the_dockerfile_has_nothing_to_lint() -> None:
    found = subprocess.run(
        [TOOLS / "hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


def test_compose_files_follow_the_schema(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE[0].read_text().replace("restart:", "restarts:"))
    command = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*command, *COMPOSE]).returncode == 0
    assert subprocess.run([*command, wrong]).returncode == 1


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_builds_targets_of_the_dockerfile(file: Path) -> None:
    targets = {
        line.split()[3]
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("FROM ")
    }
    for service in yaml.safe_load(file.read_text())["services"].values():
        build = service["build"]
        assert build["target"] in targets
        assert (file.parent / build["context"] / build["dockerfile"]).samefile(
            DEPLOY / "Dockerfile"
        )


def services(name: str) -> dict[str, dict[str, Any]]:
    """Of a compose file, variables replaced: MODEL is given, the others have their defaults."""

    def value(match: re.Match[str]) -> str:
        variable, default, needed = match.groups()
        assert (variable == "MODEL") == (needed is not None)
        return "m" if needed else str(default)

    text = re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?([^}]+))\}", value, (DEPLOY / name).read_text())
    assert "${" not in text
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def entry_points() -> dict[str, list[str]]:
    """Of the Dockerfile's images, by target."""
    found, target = {}, ""
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM "):
            target = line.split()[3]
        if line.startswith("ENTRYPOINT "):
            found[target] = json.loads(line.removeprefix("ENTRYPOINT "))
    return found


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_s_services_find_each_other(file: Path) -> None:
    """Each address names a service and its image's port; gateways wait for healthy servers."""
    there = services(file.name)
    for service in there.values():
        for host, port in re.findall(r"http://([^:/]+):(\d+)", " ".join(service["command"])):
            target = there[host]["build"]["target"]
            entry_point = entry_points()[target]
            assert port == entry_point[entry_point.index("--port") + 1]
            if service["build"]["target"] == "gateway" and "entrypoint" not in service:
                assert service["depends_on"][host] == {"condition": "service_healthy"}


def test_the_servers_of_a_pair_differ_in_their_role_alone() -> None:
    """And in their GPU; the gateway learns where the first one meets the other."""
    there = services("compose.pair.yaml")
    prefill, decode = (
        vars(_sglang_flags().parse_args([*entry_points()["gpu"][2:], *there[name]["command"]]))
        for name in ("prefill", "decode")
    )
    assert {key for key in prefill if prefill[key] != decode[key]} == {"disaggregation_mode"}
    assert (prefill["disaggregation_mode"], decode["disaggregation_mode"]) == ("prefill", "decode")
    assert prefill["model_path"] == "m"
    assert there["gateway"]["command"] == [
        *("--pd-disaggregation", "--prefill", f"http://prefill:{prefill['port']}"),
        *(str(prefill["disaggregation_bootstrap_port"]), "--decode"),
        f"http://decode:{decode['port']}",
    ]
    gpus = [
        there[name]["deploy"]["resources"]["reservations"]["devices"][0].pop("device_ids")
        for name in ("prefill", "decode")
    ]
    assert gpus == [["0"], ["1"]]
    alike = [
        {key: value for key, value in there[name].items() if key != "command"}
        for name in ("prefill", "decode")
    ]
    assert alike[0] == alike[1]


def test_the_manifests_follow_the_schemas() -> None:
    kinds = []
    for manifest in manifests():
        check_manifest(manifest)
        kinds.append(manifest["kind"])
    assert kinds == ["LeaderWorkerSet", "Service", "PersistentVolumeClaim"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("workerTemplate", "workersTemplate"),
        ("RecreateGroupOnPodRestart", "RecreateGroup"),
        ("readinessProbe", "readynessProbe"),
        ("containerPort: 30000", "containerPort: http"),
        ("targetPort", "targetPorts"),
        ("ReadWriteMany", "[]"),
    ],
)
def test_a_manifest_with_a_mistake_does_not(right: str, wrong: str) -> None:
    text = (DEPLOY / "leaderworkerset.yaml").read_text()
    assert right in text
    errors = (jsonschema.ValidationError, kubernetes_validate.utils.ValidationError)
    with pytest.raises(errors):  # noqa: PT012
        for manifest in yaml.safe_load_all(text.replace(right, wrong)):
            check_manifest(manifest)


@cache
def _sglang_flags() -> argparse.ArgumentParser:
    from sglang.srt.server_args import ServerArgs

    from led_sglang.launch_options import add_flags

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    if "--led-depth" not in parser.format_usage():
        add_flags(parser)
    return parser


def server_arguments(name: str) -> Iterator[list[str]]:
    """What each server of a file is started with, behind the entry point of its image."""
    if name.startswith("compose"):
        for service in services(name).values():
            if service["build"]["target"] != "gateway":
                yield service["command"]
    else:
        for pod in pods(manifests()[0]):
            yield pod["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", ["leaderworkerset.yaml", *(file.name for file in COMPOSE)])
def test_servers_are_started_with_flags_that_exist(name: str) -> None:
    """Numbers stand for what Kubernetes fills in."""
    _, command, *own = entry_points()["gpu"]
    assert command == "serve"
    assert entry_points()["cpu"] == entry_points()["gpu"]
    started = list(server_arguments(name))
    assert started
    for arguments in started:
        filled = [re.sub(r"\$\(LWS_\w+(SIZE|INDEX)\)", "2", argument) for argument in arguments]
        _, unknown = _sglang_flags().parse_known_args(["--model-path", "m", *own, *filled])
        assert unknown == []


def probes() -> list[list[str]]:
    """Commands that tell whether a container is ready."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    images = [json.loads(line.split("CMD ")[1]) for line in lines if line.startswith("    CMD ")]
    (leader, _) = pods(manifests()[0])
    return [*images, leader["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]]


def test_probes_are_commands_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(probes()) == 3
    for program, *arguments in probes():
        assert program == "led-sglang"
        # Nobody listens there.
        status = main([argument.replace(":30000", ":1") for argument in arguments])
        assert status == 2
        assert "no answer from http://127.0.0.1:1" in capsys.readouterr().err


def test_the_dashboard_says_none_where_no_server_serves_metrics() -> None:
    """`/metrics` is HTTP 404 then, and Prometheus has nothing of the kind."""
    dashboard = json.loads((DEPLOY / "grafana" / "led.json").read_text())
    panel = next(panel for panel in dashboard["panels"] if panel["type"] == "stat")
    (target,) = panel["targets"]
    # Grafana maps the value that a query has where nothing is found; an empty result has none.
    shown = re.fullmatch(r"count\((sglang:led_\w+)\{.*\}\) or vector\((\d+)\)", target["expr"])
    assert shown is not None
    assert target["instant"]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    text = mapping["options"][shown[2]]["text"]
    assert (mapping["type"], text) == ("value", "none: start with --enable-metrics")
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"] == "red"
    # Variables without a value to choose must not stand in the way of the panel's own query.
    queries = [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
    assert {(v["allValue"], v["current"]["value"]) for v in queries} == {(".*", "$__all")}
    assert text in " ".join((ROOT / "docs" / "deployment.md").read_text().split())


class _Gateway(BaseHTTPRequestHandler):
    """A server with three names and the gateway in front of it, in one."""

    registered: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        own = [{"id": name} for name in ("model", "model:led", "model:regular")]
        known = [model for worker in self.registered for model in worker["models"]]
        self._answer({"data": known if self.path.startswith("/gateway") else own})

    def do_POST(self) -> None:
        self.registered.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer({})

    def _answer(self, content: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_a_gateway_learns_every_name_but_the_first_under_a_url_of_its_own() -> None:
    with HTTPServer(("127.0.0.1", 0), _Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        command = [sys.executable, DEPLOY / "register_names.py"]
        done = subprocess.run([*command, f"{url}/gateway", url], capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{url}/gateway knows model:led, model:regular\n"
    names = [worker["models"] for worker in _Gateway.registered]
    assert names == [[{"id": "model:led"}], [{"id": "model:regular"}]]
    urls = [worker["url"] for worker in _Gateway.registered]
    assert len({url, *urls}) == 3
    assert {urlsplit(found).port for found in urls} == {server.server_port}
    without_a_port = subprocess.run([*command, url, "http://led"], capture_output=True, text=True)
    assert without_a_port.returncode == 1
    assert "http://led needs its port" in without_a_port.stderr
