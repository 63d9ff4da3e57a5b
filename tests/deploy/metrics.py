"""The API of metrics-server, whose image no registry here has: what the kubelet measures, in the form that a
HorizontalPodAutoscaler asks for."""

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.stack.stacks import run

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
API = f"{GROUP}/{VERSION}"


def usage(summary: dict[str, Any], namespace: str) -> dict[str, Any]:
    """A PodMetricsList of the kubelet's `/stats/summary`."""
    items = [
        {
            "metadata": {"name": pod["podRef"]["name"], "namespace": namespace},
            "timestamp": pod["cpu"]["time"],
            "window": "10s",
            "containers": [
                {"name": one["name"], "usage": {"cpu": f"{one['cpu']['usageNanoCores']}n", "memory": "0"}}
                for one in pod["containers"]
            ],
        }
        for pod in summary["pods"]
        if pod["podRef"]["namespace"] == namespace
        and pod.get("containers")
        and all("usageNanoCores" in one.get("cpu", {}) for one in [pod, *pod["containers"]])
    ]
    return {"kind": "PodMetricsList", "apiVersion": API, "metadata": {}, "items": items}


class Metrics:
    """Serves it on `host`; `summary` asks the kubelet."""

    def __init__(self, folder: Path, host: str, summary: Callable[[], dict[str, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body: dict[str, Any] = {"kind": "APIResourceList", "groupVersion": API, "resources": []}
                if "/namespaces/" in self.path:
                    body = usage(summary(), self.path.split("/namespaces/")[1].partition("/")[0])
                text = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key.pem"))
        run("openssl", "req", "-x509", "-days", "2", *key, "-out", str(folder / "cert.pem"), "-subj", "/CN=metrics")
        self.server = ThreadingHTTPServer((host, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.host, self.port = host, self.server.server_port

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def manifests(self) -> list[dict[str, Any]]:
        """What makes the API server ask here."""
        named = {"name": "metrics", "namespace": "kube-system"}
        return [
            {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": {"ports": [{"port": 443}]}},
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": named,
                "subsets": [{"addresses": [{"ip": self.host}], "ports": [{"port": self.port}]}],
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"{VERSION}.{GROUP}"},
                "spec": {
                    "service": named,
                    "group": GROUP,
                    "version": VERSION,
                    "insecureSkipTLSVerify": True,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                },
            },
        ]
