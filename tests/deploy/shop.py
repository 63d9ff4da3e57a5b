"""The tests' app on a cluster, with a Postgres beside it, released as docs/kubernetes.md says."""

import json
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.conftest import REPO
from tests.deploy.cluster import Cluster
from tests.stack.stacks import Stack, run, wait_until

PORT = 30080
HBA = "local all all trust\nhost all all all scram-sha-256\n"
# What a later release is, beside its name.
RELEASES = {
    "two": "touch /code/two",
    "broken": "sed -i 's/^    yield$/    raise RuntimeError/' /code/app/main.py",
    "unmigratable": "echo 'raise RuntimeError' >> /code/migrations/env.py",
}


class Shop:
    """The tests' app, released into the cluster as docs/kubernetes.md says."""

    def __init__(self, cluster: Cluster, stack: Stack, folder: Path) -> None:
        self.cluster, self.stack, self.folder = cluster, stack, folder
        self.database = f"{cluster.name}-database"
        self.address = ""

    def image(self, release: str) -> str:
        return f"{self.stack.project}-app:{release}"

    def begin(self) -> None:
        """A Postgres with the roles of deploy/postgres/roles.sql, the images on the node, and the secret."""
        self.stack.compose("build", "--quiet", "migrate")
        for release, change in RELEASES.items():
            lines = f"FROM {self.image('one')}\nUSER 0\nRUN {change}\nUSER 10001\n"
            run("docker", "build", "--quiet", "--tag", self.image(release), "-", input=lines)
        for release in ("one", *RELEASES):
            self.cluster.load(self.image(release))
        (self.folder / "hba").write_text(HBA)
        (self.folder / "roles.sql").write_bytes((REPO / "deploy/postgres/roles.sql").read_bytes())
        self.folder.chmod(0o755)
        given = ("--user=postgres", "--network", self.cluster.name, "--volume", f"{self.folder}:/given:ro")
        environment = ("--env=POSTGRES_HOST_AUTH_METHOD=trust", "--env=POSTGRES_DB=shop")
        image = self.stack.settings["POSTGRES_IMAGE"]
        server = ("postgres", "-c", "hba_file=/given/hba", "-c", "listen_addresses=*")
        run("docker", "run", "--detach", "--name", self.database, *given, *environment, image, *server)
        inside = ("docker", "exec", "--env=OWNER_PASSWORD=of-owner", "--env=APP_PASSWORD=of-app", self.database)
        wait_until(lambda: "accepting" in run(*inside, "pg_isready", "--host=127.0.0.1", check=False))
        names = ("--set=owner=shop_owner", "--set=app=shop_app", "--file=/given/roles.sql")
        run(*inside, "psql", "-XqU", "postgres", *names, "shop")
        [network] = json.loads(run("docker", "inspect", self.database))[0]["NetworkSettings"]["Networks"].values()
        # The gateway is this machine, as the cluster reaches it.
        self.host, self.gateway = network["IPAddress"], network["Gateway"]
        urls = {
            "DATABASE_URL": f"postgresql://shop_app:of-app@{self.host}/shop",
            "MIGRATION_DATABASE_URL": f"postgresql://shop_owner:of-owner@{self.host}/shop",
        }
        literals = (f"--from-literal={name}={url}" for name, url in urls.items())
        self.cluster.kubectl("create", "secret", "generic", "database", *literals)
        self.address = f"http://{self.cluster.address}:{PORT}"

    def remove(self) -> None:
        run("docker", "rm", "--force", "--volumes", self.database, check=False)
        for release in RELEASES:
            run("docker", "image", "rm", "--force", self.image(release), check=False)

    def write(self, release: str) -> None:
        """A folder of the user's, as deploy/kubernetes/example: the base, the image, and what this machine is."""
        base = Path(*[".."] * (len(self.folder.parts) - 1), *REPO.parts[1:], "deploy/kubernetes/base")
        patches = {
            "Service": [
                {"op": "add", "path": "/spec/type", "value": "NodePort"},
                {"op": "add", "path": "/spec/ports/0/nodePort", "value": PORT},
            ],
            # A small machine, and a test that does not wait for three minutes.
            "Deployment": [
                {"op": "replace", "path": "/spec/progressDeadlineSeconds", "value": 45},
                {
                    "op": "replace",
                    "path": "/spec/template/spec/containers/0/resources/requests",
                    "value": {"cpu": "100m", "memory": "128Mi"},
                },
            ],
        }
        mine = {
            "namespace": "shop",
            "resources": [str(base)],
            "images": [{"name": "app", "newName": f"docker.io/library/{self.stack.project}-app", "newTag": release}],
            "configMapGenerator": [{"name": "settings", "behavior": "merge", "literals": [f"STACK_RELEASE={release}"]}],
            "patches": [{"target": {"kind": kind}, "patch": yaml.safe_dump(patch)} for kind, patch in patches.items()],
        }
        (self.folder / "kustomization.yaml").write_text(yaml.safe_dump(mine))

    def release(self, release: str) -> None:
        """The steps of docs/kubernetes.md, up to the last, which waits."""
        self.write(release)
        self.cluster.kubectl("delete", "job", "migrate", "--ignore-not-found")
        self.cluster.apply(self.folder, lambda one: one["metadata"].get("labels", {}).get("stack.step") == "migrate")
        # `kubectl wait --for=jsonpath` is newer than this one.
        wait_until(lambda: bool(self.cluster.get("job", "migrate")["status"].get("conditions")))
        self.cluster.kubectl("wait", "--for=condition=complete", "--timeout=10s", "job/migrate")
        self.cluster.apply(self.folder)

    def rolled_out(self, check: bool = True) -> str:
        return self.cluster.kubectl("rollout", "status", "deployment/app", "--timeout=240s", check=check)

    def pods(self) -> dict[str, Any]:
        found = self.cluster.get("pods", "--selector=app.kubernetes.io/name=app")["items"]
        return {one["metadata"]["name"]: one for one in found if "deletionTimestamp" not in one["metadata"]}

    def containers(self) -> dict[str, str]:
        return {name: one["status"]["containerStatuses"][0]["containerID"] for name, one in self.pods().items()}

    def ready_since(self) -> dict[str, str]:
        conditions = {name: one["status"]["conditions"] for name, one in self.pods().items()}
        return {
            name: one["lastTransitionTime"]
            for name, found in conditions.items()
            for one in found
            if one["type"] == "Ready"
        }

    def ready(self) -> int:
        return int(self.cluster.get("deployment", "app")["status"].get("readyReplicas", 0))

    def who(self) -> dict[str, Any]:
        """Who answers a connection of its own."""
        found: dict[str, Any] = httpx2.get(f"{self.address}/who", timeout=10).json()
        return found

    def serve(self, release: str) -> None:
        """Have this release serve, with all its pods, whatever a test before left."""
        self.release(release)
        self.rolled_out()
        wait_until(lambda: self.ready() == len(self.pods()) >= 2)
