"""deploy/kubernetes on a real cluster: what a release, a failure and a load do to who asks meanwhile."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.deploy.cluster import Cluster, build
from tests.deploy.shop import Shop
from tests.stack.load import Load
from tests.stack.stacks import Stack, wait_until

pytestmark = [pytest.mark.long, pytest.mark.docker, pytest.mark.timeout(3600)]

# Here is no proxy that asks again when a pod closes a connection that was kept: each request has one of its own.
ALONE = {"Connection": "close"}


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
    with Load(shop.address, headers=ALONE) as load:
        for release in ("two", "one"):
            shop.release(release)
            shop.rolled_out()
        shop.cluster.kubectl("rollout", "undo", "deployment/app")
        shop.rolled_out()
        wait_until(lambda: len(load.samples) > 4000)
    report("two releases and `rollout undo`", load)
    assert shop.who()["release"] == "two"
    assert not load.failed, load.failed
    assert load.lost_or_doubled() == []


def test_failed_release(shop: Shop) -> None:
    """A migration that fails stops the release before any pod. One that can't start ends its own rollout. The old one
    serves throughout, and `rollout undo` leads back."""
    shop.serve("one")
    before = shop.pods().keys()
    with Load(shop.address, headers=ALONE) as load:
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


def test_pod_deleted_and_pod_killed(shop: Shop) -> None:
    """One that is deleted drains: no request fails. Of one that is killed those fail that it had, and it comes back."""
    shop.serve("one")
    name, *_ = shop.pods()
    with Load(shop.address, headers=ALONE) as load:
        shop.cluster.kubectl("delete", "pod", name)
        wait_until(lambda: name not in shop.pods() and shop.ready() == len(shop.pods()) >= 2)
    report("a pod deleted", load)
    assert not load.failed, load.failed

    name, pod = next(iter(shop.pods().items()))
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    with Load(shop.address, headers=ALONE) as load:
        wait_until(lambda: len(load.samples) > 200)
        shop.cluster.run("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", container)
        wait_until(lambda: shop.pods()[name]["status"]["containerStatuses"][0]["restartCount"] == 1)
        wait_until(lambda: shop.ready() == 2)
    report("a pod killed", load)
    failed = [one.sent for one in load.failed]
    assert not failed or max(failed) - min(failed) < 5, load.failed
