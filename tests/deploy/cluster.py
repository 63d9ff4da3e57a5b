"""A real Kubernetes of one node, in a container of its own: with it all of it goes, network and mounts too.

Its packages are Debian 12's, as tests/deploy/node/Dockerfile says. That is Kubernetes 1.20, of 2020: what the manifests
ask of a later one goes by the older name of its API, and is the same.
"""

import json
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from offline.images import build_base, exists
from tests.conftest import REPO
from tests.deploy.kustomize import render
from tests.stack.stacks import run, wait_until

NODE = Path(__file__).parent / "node"
BASE, PAUSE = "stack-offline/debian:bookworm", "stack-offline/kubernetes-pause:1.20"
IMAGE = "stack-offline/kubernetes-node:1.20"
# Seconds that a first build may take: it compiles Kubernetes.
BUILD = 3600
# What 1.20 calls it.
OLDER = {
    "HorizontalPodAutoscaler": "autoscaling/v2beta2",
    "PodDisruptionBudget": "policy/v1beta1",
    "CronJob": "batch/v1beta1",
}
# What the kubelet wants of the machine, and would set if it did not read it: these are only shown to it.
SHOWN = {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1}
SHOWN |= {"kernel/keys/root_maxkeys": 1_000_000, "kernel/keys/root_maxbytes": 25_000_000}
PREPARE = """
set -e
mkdir -p /run/shown /run/kubernetes /etc/cni/net.d
for one in $SHOWN; do
    file=/run/shown/$(echo ${one%=*} | tr / -)
    echo ${one#*=} > $file
    mount --bind $file /proc/sys/${one%=*}
done
mount --make-rshared /
openssl genrsa -out /run/kubernetes/accounts.key 2048 2> /dev/null
cp -r /given/. /
"""
TOKEN = "of-the-test"  # noqa: S105 - of a cluster that nobody else reaches
FILES = {
    "run/kubernetes/tokens": f"{TOKEN},admin,1,system:masters\n",
    "run/kubernetes/kubeconfig": f"""
apiVersion: v1
kind: Config
current-context: it
clusters: [{{name: it, cluster: {{server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}}}]
users: [{{name: it, user: {{token: {TOKEN}}}}}]
contexts: [{{name: it, context: {{cluster: it, user: it, namespace: shop}}}}]
""",
    # Who is in a container can't make a process of it likelier to be spared than the container is.
    "etc/containerd/config.toml": f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
""",
    "etc/cni/net.d/10-bridge.conflist": json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods",
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {"type": "host-local", "subnet": "10.244.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
    ),
}
KUBECONFIG = "--kubeconfig=/run/kubernetes/kubeconfig"
DAEMONS = {
    "containerd": "",
    "etcd": "--data-dir=/var/lib/etcd/data",
    "kube-apiserver": "--etcd-servers=http://127.0.0.1:2379 --token-auth-file=/run/kubernetes/tokens "
    "--authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16 --cert-dir=/run/kubernetes "
    "--service-account-issuer=https://it --service-account-key-file=/run/kubernetes/accounts.key "
    "--service-account-signing-key-file=/run/kubernetes/accounts.key --kubelet-preferred-address-types=InternalIP "
    # Else it may ask a Service before kube-proxy knows it, and whoever answers there instead is asked again.
    "--enable-aggregator-routing",
    # An autoscaler that looks and turns back within seconds, where by default it waits for five minutes.
    "kube-controller-manager": f"{KUBECONFIG} --service-account-private-key-file=/run/kubernetes/accounts.key "
    "--horizontal-pod-autoscaler-sync-period=5s --horizontal-pod-autoscaler-downscale-stabilization=30s "
    "--horizontal-pod-autoscaler-cpu-initialization-period=20s",
    "kube-scheduler": KUBECONFIG,
    "kubelet": f"{KUBECONFIG} --hostname-override=node --container-runtime=remote --cgroup-driver=cgroupfs "
    "--container-runtime-endpoint=unix:///run/containerd/containerd.sock --fail-swap-on=false "
    "--eviction-hard=memory.available<100Mi --network-plugin=cni",
    "kube-proxy": f"{KUBECONFIG} --hostname-override=node --cluster-cidr=10.244.0.0/16 --conntrack-max-per-core=0 "
    "--conntrack-min=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0",
}


def build() -> None:
    if not exists(BASE):
        build_base("bookworm", BASE)
    for target, image in (("pause", PAUSE), ("node", IMAGE)):
        argv = ("docker", "build", "--quiet", "--build-arg", f"BASE={BASE}", "--target", target, "--tag", image)
        run(*argv, str(NODE), timeout=BUILD)


class Cluster:
    """`folder` is for files of this test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One name a checkout, as Stack's.
        self.name = f"stack-test-kubernetes-{zlib.crc32(str(REPO).encode()):08x}"

    def up(self) -> None:
        for path, text in FILES.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        run("docker", "network", "create", self.name)
        shown = " ".join(f"{name}={value}" for name, value in SHOWN.items())
        # Privileged, as a node is on its machine. Its cgroups are below the container's.
        options = (
            "--privileged",
            "--cgroupns=private",
            "--init",
            "--tmpfs=/run",
            "--tmpfs=/tmp",
            f"--env=SHOWN={shown}",
        )
        given = f"--volume={self.folder}:/given:ro"
        network = ("--network", self.name, "--name", self.name)
        run("docker", "run", "--detach", *network, *options, given, IMAGE, "sleep", "infinity")
        self.run("sh", "-c", PREPARE)
        for daemon in DAEMONS:
            self.start(daemon)
        wait_until(self.is_ready)
        self.load(PAUSE)
        self.kubectl("create", "namespace", "shop")
        wait_until(lambda: "default" in self.kubectl("get", "serviceaccounts", "--output=name"))

    def remove(self) -> None:
        run("docker", "rm", "--force", "--volumes", self.name, check=False)
        run("docker", "network", "rm", self.name, check=False)

    def run(self, *argv: str, **options: Any) -> str:
        return run("docker", "exec", "--interactive", self.name, *argv, **options)

    def start(self, daemon: str) -> None:
        words = DAEMONS[daemon].split()
        log = 'exec "$0" "$@" > "/var/log/$0" 2>&1'
        run("docker", "exec", "--detach", self.name, "sh", "-c", log, daemon, *words)

    def kill(self, daemon: str) -> None:
        self.run("pkill", "--signal", "KILL", "--exact", daemon)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.run("kubectl", KUBECONFIG, *arguments, **options)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def is_ready(self) -> bool:
        nodes = self.kubectl("get", "nodes", "--output=jsonpath={.items[*].status.conditions[-1].status}", check=False)
        return nodes.strip() == "True"

    def heard_at(self) -> str:
        """When the kubelet last reported."""
        return self.kubectl("get", "nodes", "--output=jsonpath={.items[*].status.conditions[-1].lastHeartbeatTime}")

    def load(self, image: str) -> None:
        """Hand the node an image of this engine's, which no registry has."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            self.run("ctr", "--namespace=k8s.io", "images", "import", "-", stdin=saved.stdout)

    def apply(self, folder: Path, wanted: Callable[[dict[str, Any]], bool] = lambda one: True) -> None:
        """`kubectl apply -k`, by the older names."""
        found = [one for one in render(folder) if wanted(one)]
        for one in found:
            one["apiVersion"] = OLDER.get(one["kind"], one["apiVersion"])
        self.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(found))

    @property
    def address(self) -> str:
        """Where its ports are reached, from this machine."""
        return run(
            "docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.name
        ).strip()
