"""Caddy, Nginx and HAProxy with the files of deploy/, in containers on this machine's network."""

import contextlib
import http.client
import ipaddress
import json
import re
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path

import httpx2

from offline.images import BASE, build_base, exists
from ops.door.ask import ToThisMachine
from tests.conftest import REPO
from tests.stack.load import untrusting
from tests.stack.stacks import Stack, edge, free_ports, run, wait_until

IMAGE, PEBBLE = "stack-offline/test-proxies:forky", "stack-offline/test-pebble:forky"
OVERRIDE = "deploy/proxies.yaml"
# What stands in the files for each instance: its port, and that of its probes.
PORTS = ("8001", "8002", "9001", "9002")
NAME = "app.example.com"


class Instances(Stack):
    """The stack without Traefik, on ports of its own in place of the four that docs/proxies.md has."""

    def __init__(self, folder: Path) -> None:
        self.ports = [str(port) for port in free_ports(4)]
        override = folder / "proxies.yaml"
        # Longer than it takes a proxy to see that an instance leaves.
        settings = {"COMPOSE_FILE": f"compose.yaml:{override}", "DRAIN_SECONDS": "3"}
        super().__init__("proxies", folder / "env", REPO, **settings)
        subnet = ipaddress.ip_network(edge(f"{self.project}-web")["EDGE_SUBNET"])
        text = with_ports((REPO / OVERRIDE).read_text(), self.ports)
        text = text.replace("10.213.80.17", str(next(subnet.hosts()))).replace("10.213.80.16/28", str(subnet))
        override.write_text(text)


def with_ports(text: str, ports: list[str]) -> str:
    for port, own in zip(PORTS, ports, strict=True):
        text = re.sub(rf"(127\.0\.0\.1:){port}\b", rf"\g<1>{own}", text)
        # HAProxy names the probes' port alone.
        text = re.sub(rf"\bport {port}\b", f"port {own}", text)
    return text


@dataclass
class Program:
    """One of the three: its files in deploy/ and where they belong, how it is started, and how it checks them."""

    files: dict[str, str]
    start: tuple[str, ...]
    check: tuple[str, ...]


PROGRAMS = {
    "caddy": Program(
        {"caddy/Caddyfile": "/etc/caddy/Caddyfile"},
        ("caddy", "run", "--config", "/etc/caddy/Caddyfile"),
        ("caddy", "validate", "--config", "/etc/caddy/Caddyfile"),
    ),
    "nginx": Program(
        {"nginx/app.conf": "/etc/nginx/conf.d/app.conf"},
        ("nginx", "-g", "daemon off;"),
        ("nginx", "-t"),
    ),
    "haproxy": Program(
        {"haproxy/haproxy.cfg": "/etc/haproxy/haproxy.cfg"},
        ("haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"),
        ("haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg"),
    ),
}


@dataclass
class Proxy:
    """A running one, before instances."""

    program: str
    container: str
    folder: Path
    site: str
    http: int
    https: int

    @property
    def address(self) -> str:
        return f"https://{self.site}:{self.https}"

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        source: str = "127.0.0.1",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, HTTPMessage, str]:
        """Status, headers and text of an answer by HTTPS to a client with that address of this machine's."""
        context = untrusting()
        connection = http.client.HTTPSConnection(
            "localhost", self.https, timeout=20, context=context, source_address=(source, 0)
        )
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def answers(self) -> bool:
        return self.status("/") == 200

    def status(self, path: str) -> int:
        """Of its answer; 0 while there is none."""
        try:
            return self.ask(path)[0]
        except (OSError, http.client.HTTPException):
            return 0

    def exec(self, *argv: str) -> str:
        return run("docker", "exec", self.container, *argv)


def build_base_if_missing() -> None:
    if not exists(BASE):
        build_base()


def build() -> None:
    build_base_if_missing()
    run("docker", "build", "--quiet", "--build-arg", f"BASE={BASE}", "--tag", IMAGE, str(REPO / "tests/deploy/proxies"))


def certificate(folder: Path, name: str) -> None:
    """Self-signed, where Certbot would leave it, and as HAProxy takes it."""
    live = folder / "letsencrypt/live" / name
    live.mkdir(parents=True)
    key, chain = live / "privkey.pem", live / "fullchain.pem"
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key))
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    run("openssl", "req", "-x509", "-days", "2", *new, "-out", str(chain), *subject)
    (folder / "app.pem").write_text(chain.read_text() + key.read_text())


def written(
    program: str, folder: Path, name: str, ports: list[str], own: tuple[int, ...], options: str = ""
) -> list[str]:
    """The program's files with these names and ports in place of the pages'; docker's options to mount them."""
    mounts = []
    for path, place in PROGRAMS[program].files.items():
        text = with_ports((REPO / "deploy" / path).read_text(), ports).replace(NAME, name)
        if path == "caddy/Caddyfile":
            text = text.replace("{\n", f"{{\n\thttp_port {own[0]}\n\thttps_port {own[1]}\n\tadmin off\n{options}", 1)
        # Caddy's site for probes, HAProxy's Certbot.
        text = re.sub(r"127\.0\.0\.1:(9003|8888)", f"127.0.0.1:{own[2]}", text)
        for port, mine in (("80", own[0]), ("443", own[1])):
            text = re.sub(rf"^( +(?:listen|bind) .*?:?){port}\b", rf"\g<1>{mine}", text, flags=re.MULTILINE)
            text = text.replace(f",:::{port} ", f",:::{mine} ")
        file = folder / Path(path).name
        file.write_text(text)
        mounts += ["--volume", f"{file}:{place}:ro"]
    return mounts


def named(*words: str) -> str:
    """A container's name that is this checkout's."""
    return "-".join(("stack-test-proxies", f"{zlib.crc32(str(REPO).encode()):08x}", *words))


@contextlib.contextmanager
def container(name: str, image: str, options: list[str], *command: str) -> Iterator[None]:
    """It runs meanwhile, on this machine's network. Its log is shown where something fails."""
    run("docker", "rm", "--force", name, check=False)
    run("docker", "run", "--detach", "--network", "host", "--name", name, *options, image, *command)
    try:
        yield
    except BaseException:
        print(run("docker", "logs", "--tail", "100", name, check=False))
        raise
    finally:
        run("docker", "rm", "--force", name)


@contextlib.contextmanager
def running(
    program: str,
    name: str,
    folder: Path,
    ports: list[str],
    site: str = "localhost",
    own: tuple[int, ...] = (),
    options: str = "",
) -> Iterator[Proxy]:
    """The program before instances on these ports, by the name of the site; `options` are Caddy's global ones."""
    own = own or tuple(free_ports(3))
    mounts = written(program, folder, site, ports, own, options)
    if not (folder / "app.pem").exists():
        certificate(folder, site)
    marks = folder / "run"
    marks.mkdir(exist_ok=True)
    places = {
        "letsencrypt": "/etc/letsencrypt",
        "app.pem": f"/etc/haproxy/{site}.pem",
        "run": "/run/app",
        "pebble.pem": "/etc/pebble.pem",
    }
    for here, there in places.items():
        # Certbot wants to make the folder itself, where the certificate is not for Nginx.
        if (folder / here).exists() and (here != "letsencrypt" or program == "nginx"):
            mounts += ["--volume", f"{folder / here}:{there}"]
    run("chmod", "-R", "a+rX", str(folder))
    with container(name, IMAGE, mounts, *PROGRAMS[program].start):
        yield Proxy(program, name, folder, site, *own[:2])


@contextlib.contextmanager
def authority(name: str, folder: Path, site: str, own: tuple[int, ...]) -> Iterator[tuple[str, Path]]:
    """Pebble, which finds the site on these ports: its address, and by what its certificates are trusted.

    By pebble.pem in the folder it is trusted itself.
    """
    build_base_if_missing()
    pebble = REPO / "tests/stack/pebble"
    run("docker", "build", "--quiet", "--build-arg", f"BASE={BASE}", "--tag", PEBBLE, str(pebble))
    settings = json.loads((pebble / "pebble.json").read_text())
    port, roots = free_ports(2)
    settings["pebble"] |= {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{roots}",
        "httpPort": own[0],
        "tlsPort": own[1],
    }
    (folder / "pebble.json").write_text(json.dumps(settings))
    (folder / "pebble.json").chmod(0o644)
    # Its own certificate is in the image.
    own_pem, root = folder / "pebble.pem", folder / "root.pem"
    own_pem.write_text(run("docker", "run", "--rm", PEBBLE, "cat", "/pebble.pem"))
    own_pem.chmod(0o644)
    options = ["--add-host", f"{site}:127.0.0.1", "--volume", f"{folder}/pebble.json:/pebble.json:ro"]
    with container(name, PEBBLE, options):

        def answers() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                root.write_text(httpx2.get(f"https://localhost:{roots}/roots/0", verify=False).text)
            return root.exists()

        wait_until(answers)
        yield f"https://localhost:{port}/dir", root


def trusted(proxy: Proxy, root: Path) -> bool:
    """Whether the site has a certificate of the authority's."""
    connection = ToThisMachine(proxy.site, proxy.https, ssl.create_default_context(cafile=str(root)))
    try:
        connection.connect()
        return True
    except OSError:
        return False
    finally:
        connection.close()
