"""One truth: what is in deploy/ says of the app and of its migration what compose.yaml says."""

import re
from dataclasses import fields

import pytest

from runtime.settings import PREFIX, Settings, read
from tests.conftest import REPO
from tests.unit.deployments import FORMS, Runs, compose, settings_file

DEPLOY = REPO / "deploy"
# What has no container of the app's: roles of a database, and proxies, of which another test knows what they pass on.
OTHERS = {"postgres", "caddy", "nginx", "haproxy"}
THERE = sorted({path.name for path in DEPLOY.iterdir() if path.is_dir()} & set(FORMS))
RUNS: list[Runs] = [one for name in THERE for one in FORMS[name](DEPLOY / name)]
TRUTH = compose()
# Each setting of the code, as an engine knows it.
SETTINGS = {f"{PREFIX}{one.name.upper()}" for one in fields(Settings)}
# Where the app is and who is beside it: another one on each engine. All else has compose.yaml's default.
PLACE = {f"{PREFIX}{name}" for name in ("HOST", "PORT", "READINESS_PORT", "REPLICAS", "SURGE", "WORKERS")}
PLACE |= {f"{PREFIX}{name}" for name in ("FORWARDED_ALLOW_IPS", "DATABASE_URL", "RELEASE")}
# A form that lists settings lists them all. Units and programs have a file of the user's for what they don't name.
LISTS = {"kubernetes", "swarm"}
# But for those of the migration's own container, the code's ports, and what is of proxies before Compose's Traefik.
OF_MIGRATION = TRUTH["migrate"].settings.keys() - TRUTH["app"].settings.keys()
UNLISTED = {f"{PREFIX}{name}" for name in ("HOST", "PORT", "READINESS_PORT", "TRUSTED_PROXIES")}
# What each form can say: a fact that it leaves out is as wrong as another one.
SAYS = {
    "kubernetes": {"user", "memory", "capabilities", "privileges", "read-only root"},
    "swarm": {"user", "memory", "processes", "capabilities", "read-only root", "writable"},
    "systemd": {"memory", "processes", "capabilities"},
    "supervisor": set[str](),
}


def form(one: Runs) -> str:
    return one.where.split("/")[1]


def test_every_deployment_is_read() -> None:
    """A folder in deploy/ that nobody here knows, and a form without an app, fail."""
    assert {path.name for path in DEPLOY.iterdir() if path.is_dir()} == set(FORMS) | OTHERS
    assert {form(one) for one in RUNS if one.role == "app"} == set(THERE)


def test_settings_are_the_codes() -> None:
    """No name that the code does not know; where a form lists them, none is missing."""
    wrong = []
    for one in RUNS:
        # One may be in a file that the variable names.
        named = {name.removesuffix("_FILE") for name in one.settings if name.startswith(PREFIX)}
        listed = {"app": SETTINGS - OF_MIGRATION - UNLISTED, "migrate": OF_MIGRATION}.get(one.role, set())
        missing = listed - named if form(one) in LISTS else set()
        wrong += [(one.where, name) for name in sorted(named - SETTINGS | missing)]
    assert wrong == []


def test_settings_have_their_defaults() -> None:
    """Empty is the default, or it is written out. Only what depends on the place is another one."""
    usual = Settings()
    wrong = []
    for one in RUNS:
        for name, text in one.settings.items():
            if name in PLACE or name not in SETTINGS:
                continue
            kept = name.removeprefix(PREFIX).lower()
            if getattr(read({name: text}), kept) != getattr(usual, kept):
                wrong.append((one.where, f"{name}={text}"))
    assert wrong == []


def test_facts_are_composes() -> None:
    """User, memory, processes, rights, what can be written to, the grace period, and what a start may take."""
    wrong = []
    for one in RUNS:
        truth = {**TRUTH["migrate" if one.role == "migrate" else "app"].facts, "privileges": False}
        said = SAYS[form(one)] | ({"grace"} if one.role == "app" else set())
        wrong += [(one.where, name, "not said") for name in sorted(said - one.facts.keys())]
        for name, fact in one.facts.items():
            # What another process of the app's needs and how long it takes are its own.
            if fact != truth[name] and not (one.role == "process" and name in ("memory", "grace")):
                wrong.append((one.where, name, f"{fact}, and not {truth[name]}"))
    assert wrong == []


def test_probes_ask_the_first_process() -> None:
    """`/ready` for who may get requests and for the start, `/live` for who is beyond help, on the probes' port."""
    port = str(Settings().readiness_port)
    asks = {"startup": ("/ready", port), "readiness": ("/ready", port), "liveness": ("/live", port)}
    wrong = [(one.where, one.probes) for one in RUNS if one.role == "app" and form(one) == "kubernetes"]
    assert [(where, probes) for where, probes in wrong if probes != asks] == []


def test_replicas_are_what_the_pools_count() -> None:
    """On a cluster STACK_REPLICAS and STACK_SURGE are what the autoscaler and a rollout may come to."""
    for folder, file in (("kubernetes", "base/app.yaml"), ("swarm", "stack.yml")):
        text = (DEPLOY / folder / file).read_text()
        [app] = [one for one in RUNS if one.role == "app" and one.where.startswith(f"deploy/{folder}/{file}:")]
        counted = re.findall(r"\b(?:maxReplicas|replicas|maxSurge|parallelism) *[:=] *\"?(?:\$\{\w+:-)?(\d+)", text)
        assert {app.settings[f"{PREFIX}REPLICAS"], app.settings[f"{PREFIX}SURGE"]} <= set(counted), (folder, counted)


PROXIES = {
    "nginx/app.conf": r"client_max_body_size (\d+)(M?B?);",
    "haproxy/haproxy.cfg": r"req\.body_size gt (\d+)(M?B?)\b",
    "caddy/Caddyfile": r"max_size (\d+)(MB)\b",
}


@pytest.mark.parametrize("path", PROXIES)
def test_proxies_hold_bodies_to_the_same_size(path: str) -> None:
    """BODY_LIMIT; and who can ask whether an instance is ready asks `/ready`."""
    file = DEPLOY / path
    found = re.search(PROXIES[path], file.read_text())
    assert found, path
    assert int(found[1]) * (10**6 if found[2] else 1) == Settings().body_limit
    assert path.startswith("nginx") or re.search(r"(?:httpchk GET|health_uri) /ready\b", file.read_text())


def test_compose_is_read() -> None:
    """The reader finds in compose.yaml what the deployments are held to."""
    assert set(TRUTH["app"].facts) == {"user", "memory", "processes", "capabilities", "read-only root", "writable"} | {
        "grace",
        "start",
        "check",
    }
    assert (TRUTH["app"].facts["user"], TRUTH["migrate"].facts["user"]) == ("10001:10001", "10002:10002")
    assert TRUTH["app"].facts["writable"] == [("/tmp", 64 << 20)]  # noqa: S108 - a tmpfs of the container
    assert settings_file(DEPLOY / "nowhere") == {}
