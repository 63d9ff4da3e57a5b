"""deploy/kubernetes on a real cluster: what a release, a failure and a load do to who asks meanwhile."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.conftest import REPO
from tests.deploy.cluster import Cluster, build
from tests.deploy.metrics import Metrics
from tests.deploy.shop import Shop
from tests.stack.load import Load
from tests.stack.stacks import Stack, run, wait_until

pytestmark = [pytest.mark.long, pytest.mark.docker, pytest.mark.timeout(3600)]

# Here is no proxy that asks again when a pod closes a connection that was kept: each request has one of its own.
ALONE = {"Connection": "close"}
# Requests a second that two CPUs answer at once beside the cluster and who asks, also while pods start: what waits is
# refused in the end, as a database that is busy.
RATE = 20
REFUSED = "ConnectError('All connection attempts failed')"
# Seconds: the startup probe's first of a second, the readiness probe's first of another, and what reports them.
PROBED_AGAIN = 5


def report(name: str, load: Load) -> None:
    """What `./stack test --long tests/deploy` shows."""
    print(f"Kubernetes, {name}: {len(load.samples)} sent, {len(load.failed)} failed. {load.report()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    build()
    cluster = Cluster(tmp_path_factory.mktemp("node"))
    cluster.remove()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="module")
def shop(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    stack = Stack("kubernetes", tmp_path_factory.mktemp("stack") / "env", RELEASE="one")
    shop = Shop(cluster, stack, tmp_path_factory.mktemp("shop"))
    shop.remove()
    stack.remove()
    try:
        shop.begin()
        shop.serve("one")
        yield shop
    finally:
        shop.remove()
        stack.remove()


def test_install(shop: Shop) -> None:
    """The migration ran as the owner, then two pods of the release came up and write as the app; probes stay inside."""
    assert shop.who()["release"] == "one"
    assert len(shop.pods()) == 2
    [job] = shop.cluster.get("jobs")["items"]
    assert job["status"]["succeeded"] == 1
    with httpx2.Client(base_url=shop.address) as client:
        assert client.post("/notes", json={"text": "milk"}).status_code == 201
        assert client.get("/health").json()["at_head"] is True
    [service] = [one for one in shop.cluster.get("services")["items"] if one["metadata"]["name"] == "app"]
    assert [one["targetPort"] for one in service["spec"]["ports"]] == ["http"]


def test_rolling_updates(shop: Shop) -> None:
    """Two releases and a way back under load: no request fails, and no write is lost."""
    shop.serve("one")
    with Load(shop.address, RATE, headers=ALONE) as load:
        for release in ("two", "one"):
            shop.release(release)
            shop.rolled_out()
        shop.cluster.kubectl("rollout", "undo", "deployment/app")
        shop.rolled_out()
        wait_until(lambda: len(load.samples) > 4000, 300)
    report("two releases and `rollout undo`", load)
    assert shop.who()["release"] == "two"
    assert not load.failed, load.failed
    assert load.lost_or_doubled() == []


def test_failed_release(shop: Shop) -> None:
    """A migration that fails stops the release before any pod. One that can't start ends its own rollout. The old one
    serves throughout, and `rollout undo` leads back."""
    shop.serve("one")
    before = shop.pods().keys()
    with Load(shop.address, RATE, headers=ALONE) as load:
        with pytest.raises(AssertionError, match="timed out waiting for the condition on jobs/migrate"):
            shop.release("unmigratable")
        assert "raise RuntimeError" in shop.cluster.kubectl("logs", "job/migrate")
        assert shop.pods().keys() == before
        shop.release("broken")
        said = shop.rolled_out(check=False)
        assert "exceeded its progress deadline" in said
        assert shop.pods().keys() > before
        assert {shop.who()["release"] for _ in range(20)} == {"one"}
        shop.cluster.kubectl("rollout", "undo", "deployment/app")
        shop.rolled_out()
    report("a release that is broken", load)
    assert shop.pods().keys() == before
    assert not load.failed, load.failed


def test_kubelet_restarted(shop: Shop) -> None:
    """The node's kubelet ends and comes back: the same pods serve on, without a restart of their own.

    One older than Kubernetes 1.35, as this is, then reports each pod unready until it has probed it. Both are on this
    node, so that for so long nobody takes a connection; no request that had one fails.
    """
    shop.serve("one")
    containers, ready_since = shop.containers(), shop.ready_since()
    with Load(shop.address, RATE, headers=ALONE) as load:
        shop.cluster.kill("kubelet")
        wait_until(lambda: len(load.samples) > 200)
        begun, heard = time.monotonic(), shop.cluster.heard_at()
        shop.cluster.start("kubelet")
        wait_until(lambda: shop.cluster.heard_at() != heard)
        wait_until(lambda: len(load.samples) > 600)
    wait_until(lambda: shop.ready() == 2)
    report("the kubelet restarted", load)
    assert shop.containers() == containers
    if load.failed:
        assert shop.ready_since() != ready_since
        assert {one.failure for one in load.failed} == {REFUSED}
        sent = [one.sent for one in load.failed]
        assert begun < min(sent)
        assert max(sent) - min(sent) < PROBED_AGAIN


def test_pod_deleted_and_pod_killed(shop: Shop) -> None:
    """One that is deleted drains: no request fails. Of one that is killed those fail that it had, and it comes back."""
    shop.serve("one")
    name, *_ = shop.pods()
    with Load(shop.address, RATE, headers=ALONE) as load:
        shop.cluster.kubectl("delete", "pod", name)
        wait_until(lambda: name not in shop.pods() and shop.ready() == len(shop.pods()) >= 2)
    report("a pod deleted", load)
    assert not load.failed, load.failed

    name, pod = next(iter(shop.pods().items()))
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    with Load(shop.address, RATE, headers=ALONE) as load:
        wait_until(lambda: len(load.samples) > 200)
        shop.cluster.run("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", container)
        wait_until(lambda: shop.pods()[name]["status"]["containerStatuses"][0]["restartCount"] == 1)
        wait_until(lambda: shop.ready() == 2)
    report("a pod killed", load)
    failed = [one.sent for one in load.failed]
    assert not failed or max(failed) - min(failed) < 5, load.failed


def commands(heading: str) -> list[str]:
    """The commands of a section of docs/kubernetes.md that speak to a database."""
    section = (REPO / "docs/kubernetes.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `(docker [^`]*(?:pg_|psql)[^`]*)`", section, re.MULTILINE)


def test_move_there_and_back(shop: Shop) -> None:
    """The page's own commands take the rows to the cluster's database, and back; the app may write there, as before."""
    shop.serve("one")
    stack = shop.stack
    stack.compose("up", "--detach", "--wait", "postgres")
    stack.compose("run", "--rm", "migrate")
    stack.psql("INSERT INTO notes (text) VALUES ('from the server')")
    url = f"postgresql://shop_owner:of-owner@{shop.host}/shop"
    named = {
        "docker compose": f"docker compose --env-file {stack.env_file}",
        "docker run": f"docker run --network={shop.cluster.name}",
        "postgres:18": stack.settings["POSTGRES_IMAGE"],
        "MIGRATION_DATABASE_URL": url,
        "shop.dump": str(shop.folder / "shop.dump"),
    }

    def follow(heading: str, role: str) -> None:
        found = commands(heading)
        assert len(found) == 3
        for command in found:
            text = command.replace("FROM app", f"FROM {role}")
            for word, value in named.items():
                text = text.replace(word, value)
            run("sh", "-ec", text, cwd=REPO)

    follow("Move from Compose to a cluster", "shop_app")
    with httpx2.Client(base_url=shop.address) as client:
        assert [one["text"] for one in client.get("/notes").json()] == ["from the server"]
        assert client.post("/notes", json={"text": "on the cluster"}).status_code == 201
        assert client.get("/health").json()["at_head"] is True
    follow("And back", "app")
    assert stack.psql("SELECT text FROM notes ORDER BY id", "app") == "from the server\non the cluster"
    assert stack.psql("INSERT INTO notes (text) VALUES ('here again') RETURNING text", "app") == "here again"
    writes = "SELECT has_table_privilege('app', 'alembic_version', 'UPDATE')"
    assert stack.psql(writes) == "f"


def test_scales_with_the_load(shop: Shop, tmp_path: Path) -> None:
    """From two pods to six under load, and back when it is over: no request fails.

    The load takes half a CPU. The autoscaler wants one pod for 70 thousandths of it.
    """
    shop.serve("one")
    summary = "/api/v1/nodes/node/proxy/stats/summary"
    with Metrics(tmp_path, shop.gateway, lambda: json.loads(shop.cluster.kubectl("get", "--raw", summary))) as metrics:
        manifests = yaml.safe_dump_all(metrics.manifests())
        shop.cluster.kubectl("apply", "--filename=-", input=manifests)
        with Load(shop.address, headers=ALONE, rate=RATE, paths=("/compute?seconds=0.025",)) as load:
            wait_until(lambda: shop.ready() == 6, 300)
        report("scaled from 2 to 6", load)
        with Load(shop.address, headers=ALONE, rate=5, paths=("/",)) as idle:
            wait_until(lambda: len(shop.pods()) == 2, 300)
        report("scaled from 6 to 2", idle)
        shop.cluster.kubectl("delete", "--ignore-not-found", "--filename=-", input=manifests)
    assert not load.failed, load.failed
    assert not idle.failed, idle.failed
