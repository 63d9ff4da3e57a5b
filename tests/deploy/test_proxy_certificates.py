"""Certificates for the proxies of deploy/: Caddy's by itself, Certbot's for Nginx and HAProxy, of the real Pebble."""

from pathlib import Path

import pytest

from tests.deploy import proxies
from tests.deploy.proxies import Proxy, trusted
from tests.stack.stacks import free_ports, run, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.long]

SITE = "app.test"
# Of instances that are not there: no test here needs one.
NOBODY = ["1", "2", "3", "4"]


def certbot(container: str, server: str, *how: str) -> None:
    """As docs/proxies.md has it, of another authority."""
    argv = ("certbot", "certonly", "--non-interactive", "--agree-tos", "--register-unsafely-without-email", *how)
    trust = ("--env", "REQUESTS_CA_BUNDLE=/etc/pebble.pem")
    run("docker", "exec", *trust, container, *argv, "--domain", SITE, "--server", server)


def test_caddy(tmp_path: Path) -> None:
    """It gets one by itself."""
    proxies.build()
    own, name = tuple(free_ports(3)), proxies.named("acme")
    with proxies.authority(f"{name}-pebble", tmp_path, SITE, own) as (server, root):
        options = f"\tacme_ca {server}\n\tacme_ca_root /etc/pebble.pem\n"
        with proxies.running("caddy", name, tmp_path, NOBODY, SITE, own, options) as proxy:
            wait_until(lambda: trusted(proxy, root))


def test_haproxy(tmp_path: Path) -> None:
    """It passes the authority's question on to Certbot, and takes the certificate in place of a self-signed one."""
    proxies.build()
    own, name = tuple(free_ports(3)), proxies.named("acme")
    with (
        proxies.authority(f"{name}-pebble", tmp_path, SITE, own) as (server, root),
        proxies.running("haproxy", name, tmp_path, NOBODY, SITE, own) as proxy,
    ):
        wait_until(lambda: proxy.status("/ready") == 404)
        assert not trusted(proxy, root)
        how = ("--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", str(own[2]))
        together = f"cat $RENEWED_LINEAGE/fullchain.pem $RENEWED_LINEAGE/privkey.pem > /etc/haproxy/{SITE}.pem"
        # In place of `systemctl reload haproxy`.
        certbot(name, server, *how, "--deploy-hook", f"{together} && kill -USR2 1")
        wait_until(lambda: trusted(proxy, root))


def test_nginx(tmp_path: Path) -> None:
    """Certbot proves the name by Debian's own site; then the file takes its place, with the certificate."""
    proxies.build()
    own, name = tuple(free_ports(3)), proxies.named("acme")
    proxies.written("nginx", tmp_path, SITE, NOBODY, own)
    with proxies.authority(f"{name}-pebble", tmp_path, SITE, own) as (server, root):
        trust = ["--volume", f"{tmp_path}/pebble.pem:/etc/pebble.pem:ro"]
        port = f"s/\\b80 default/{own[0]} default/"
        begin = f"sed -i '{port}' /etc/nginx/sites-available/default && exec nginx -g 'daemon off;'"
        with proxies.container(name, proxies.IMAGE, trust, "sh", "-c", begin):
            proxy = Proxy("nginx", name, tmp_path, SITE, *own[:2])
            # No plugin of Nginx's: it looks for a running server, and changes its files.
            wait_until(lambda: "running" in run("docker", "inspect", "--format", "{{.State.Status}}", name))
            certbot(name, server, "--webroot", "--webroot-path", "/var/www/html")
            for path, place in proxies.PROGRAMS["nginx"].files.items():
                run("docker", "cp", str(tmp_path / Path(path).name), f"{name}:{place}")
            proxy.exec("rm", "/etc/nginx/sites-enabled/default")
            proxy.exec("nginx", "-t")
            proxy.exec("nginx", "-s", "reload")
            wait_until(lambda: trusted(proxy, root))
