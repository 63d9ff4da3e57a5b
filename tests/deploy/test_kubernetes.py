"""deploy/kubernetes: what the manifests say, as Kustomize reads them."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml

from runtime.limits import SLOTS
from runtime.settings import PREFIX, Settings, read
from tests.conftest import REPO
from tests.deploy.kustomize import render

FOLDER = REPO / "deploy/kubernetes"
# The oldest whose API has all that is asked for, and the newest that is known.
VERSIONS = ("1.28", kubernetes_validate.latest_version())
Found = list[dict[str, Any]]


@pytest.fixture(scope="module", params=["base", "example", "init"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The base, the example, and the base with the migration in each pod."""
    if request.param != "init":
        return render(FOLDER / request.param)
    folder = tmp_path_factory.mktemp("init")
    # Kustomize takes no absolute path.
    way = Path(*[".."] * (len(folder.parts) - 1), *FOLDER.parts[1:])
    text = {"resources": [str(way / "base")], "components": [str(way / "migrate-in-init")]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return render(folder)


def pods(found: Found) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each pod's `spec`, by its resource's name."""
    for one in found:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "containers" in spec.get("template", {}).get("spec", {}):
            yield one["metadata"]["name"], spec["template"]["spec"]


def containers(pod: dict[str, Any]) -> Found:
    return [*pod.get("initContainers", []), *pod["containers"]]


def named(found: Found, kind: str, name: str = "app") -> dict[str, Any]:
    [one] = [one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return one


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas(found: Found, version: str) -> None:
    """Each resource is one of that version's, without a field that it does not know."""
    assert len(found) > 7
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)


def test_pod_security_restricted(found: Found) -> None:
    """Every pod is one that the policy `restricted` admits: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    assert len(list(pods(found))) > 0
    for name, pod in pods(found):
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}, name
        assert all(volume.keys() <= {"name", "emptyDir", "configMap", "secret"} for volume in pod["volumes"]), name
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "sysctls" not in context, name
        for one in containers(pod):
            own = one["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert {**context, **own}["runAsUser"] > 0, name
            assert not own.keys() & {"privileged", "procMount", "seLinuxOptions", "appArmorProfile"}, name
            assert all("hostPort" not in port for port in one.get("ports", [])), name


def test_every_pod_is_shut(found: Found) -> None:
    """Read-only, with a /tmp of a size, a limit of memory, and nothing of the cluster's: no token, no variables."""
    for name, pod in pods(found):
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False), name
        assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}], name
        for one in containers(pod):
            assert one["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert one["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}], name  # noqa: S108 - in the pod
            assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"], name


def test_secrets_are_named_alone(found: Found) -> None:
    """No Secret and no password is here, and only the migration is handed the owner's."""
    assert "Secret" not in {one["kind"] for one in found}
    assert not re.search(r"postgres(ql)?://", yaml.safe_dump_all(found))
    for _, pod in pods(found):
        for one in containers(pod):
            [url] = one["env"]
            key = "MIGRATION_DATABASE_URL" if one["name"] == "migrate" else "DATABASE_URL"
            assert url == {
                "name": "STACK_DATABASE_URL",
                "valueFrom": {"secretKeyRef": {"name": "database", "key": key}},
            }


def settings(found: Found) -> dict[str, str]:
    [one] = [one["data"] for one in found if one["kind"] == "ConfigMap"]
    return dict(one)


def test_settings_fit_to_the_manifests(found: Found) -> None:
    """What the code is told of ports, replicas and graces is what the Deployment and its autoscaler say."""
    told = read(settings(found))
    deployment, scaler = named(found, "Deployment"), named(found, "HorizontalPodAutoscaler")
    pod = deployment["spec"]["template"]["spec"]
    [app] = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in app["ports"]}
    assert ports == {"http": told.port, "readiness": told.readiness_port}
    assert pod["terminationGracePeriodSeconds"] == told.stop_grace_seconds
    assert scaler["spec"]["maxReplicas"] == told.replicas
    assert scaler["spec"]["minReplicas"] >= SLOTS
    # `apply` would take the autoscaler's replicas back.
    assert "replicas" not in deployment["spec"]
    rolling = {"maxSurge": told.surge, "maxUnavailable": 0}
    assert deployment["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    assert told.workers == 1
    # Nobody may say who a client is, until somebody is named.
    assert told.forwarded_allow_ips
    assert "lifecycle" not in app
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert app[name]["httpGet"]["port"] == "readiness"
    # A drain is no reason for a kill.
    live = app["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] > told.stop_grace_seconds
    start = app["startupProbe"]
    assert deployment["spec"]["progressDeadlineSeconds"] > start["periodSeconds"] * start["failureThreshold"]


def test_every_setting_is_listed() -> None:
    """The base has each setting of the code, but for the database's, which is a secret."""
    every = {PREFIX + one.name.upper() for one in fields(Settings)}
    secret = {name for name in every if name.startswith("STACK_DATABASE_URL")}
    assert settings(render(FOLDER / "base")).keys() == every - secret


def test_door_leads_to_the_apps_port_alone(found: Found) -> None:
    """Ingress, Service and NetworkPolicy name the port `http`; the probes' port is in none of them."""
    assert named(found, "Service")["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    [rule] = named(found, "Ingress")["spec"]["rules"]
    backend = {"service": {"name": "app", "port": {"name": "http"}}}
    assert rule["http"]["paths"] == [{"path": "/", "pathType": "Prefix", "backend": backend}]
    [let_in] = named(found, "NetworkPolicy")["spec"]["ingress"]
    assert let_in["ports"] == [{"port": "http"}]
    # All others take nothing from anybody.
    nobody = named(found, "NetworkPolicy", "nobody")["spec"]
    assert "ingress" not in nobody
    for one in found:
        if template := one.get("spec", {}).get("template"):
            assert template["metadata"]["labels"].items() >= nobody["podSelector"]["matchLabels"].items()


def test_release_waits_for_its_migration() -> None:
    """What `stack.step=migrate` selects is the Job and the settings that it reads, and nothing that serves."""
    found = render(FOLDER / "base")
    first = [one for one in found if one["metadata"].get("labels", {}).get("stack.step") == "migrate"]
    assert {one["kind"] for one in first} == {"ConfigMap", "Job"}
    job = named(found, "Job", "migrate")
    # MIGRATE_DEADLINE is for waiting. Compose has no limit for the whole.
    assert job["spec"]["activeDeadlineSeconds"] >= 86400
    assert job["spec"]["backoffLimit"] == 0
