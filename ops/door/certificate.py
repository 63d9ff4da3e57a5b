"""The domain's certificates: what stands in their way, and how long they last."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from typing import Any

from ops.allowed import ACME
from ops.config import Config
from ops.door.ask import ToThisMachine
from ops.run import Stop, compose, has_volume, run_with, step

# Seconds for a certificate to be issued, and for one by DNS, whose record has to get about first.
ISSUE_SECONDS, RECORD_SECONDS = 60, 300
# An ACME server's problem type, or the words of Traefik's own error, and what to do about it.
# https://www.rfc-editor.org/rfc/rfc8555#section-6.7
REMEDIES = {
    "presenting token|credentials|DNS provider|find zone": "ACME_DNS's provider could not set the record: see its "
    "variables in traefik.env.",
    "get directory": "It can't be reached from here: see that ACME_CA is right, and the way out open.",
    "error:(invalidContact|invalidEmail|unsupportedContact)": "It refuses ACME_EMAIL: set your own address.",
    "error:dns|no such host": "{name} has no address in public DNS: add an A record (and AAAA) with this server's.",
    "error:connection": "It can't reach port 80 of {name}: see that the name leads to this machine, and that the "
    "firewall, the provider's as well, lets port 80 in.",
    "error:(unauthorized|incorrectResponse)": "Another machine answers for {name}: correct its A and AAAA records.",
    "error:caa": "A CAA record of {name} forbids it: allow this authority there.",
    "error:rateLimited": "It has had too many requests for {name}: wait as long as it says.",
    "error:(invalidProfile|malformed)": "It does not know ACME_PROFILE: take one that its directory lists.",
}


@dataclass(frozen=True)
class Certificate:
    """When one begins and ends, in seconds of the epoch."""

    begins: float
    ends: float

    @property
    def left(self) -> float:
        return self.ends - time.time()

    def late(self, part: int = 5) -> bool:
        """Whether less than that part of its time is left; less than a fifth, and Traefik should have renewed it.

        It begins 30 days before the end of 90, 10 of 45, 2 of 6.7: its getCertificateRenewDurations.
        """
        return self.left < (self.ends - self.begins) / part


def served(name: str, config: Config) -> Certificate:
    """The certificate that this machine serves for the name. Raises OSError when it is none that browsers trust."""
    # For a wildcard, any name that it is for.
    where = (config.ports[1], ssl.create_default_context(), config.addresses[1])
    connection = ToThisMachine(name.replace("*", "any"), *where)
    try:
        connection.connect()
        found: Any = connection.sock.getpeercert()
        return Certificate(*(ssl.cert_time_to_seconds(found[key]) for key in ("notBefore", "notAfter")))
    finally:
        connection.close()


def check_names(config: Config) -> None:
    """Say before anything starts which name can't lead here. No reason to stop: DNS may follow, a stored one serves."""
    for name in (one for one in config.names if config.public and not one.startswith("*.")):
        try:
            found = {answer[4][0] for answer in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}
        except OSError:
            print(f"{name} has no address: add an A record (and AAAA) with this server's address.", file=sys.stderr)
            continue
        own = [address for address in map(way_out, ("192.0.2.1", "2001:db8::1")) if address]
        # Behind a router the public address is not on this machine, and nobody here knows it.
        if any(ipaddress.ip_address(address).is_global for address in own) and not any(map(is_here, found)):
            leads = ", ".join(sorted(map(str, found)))
            print(f"{name} leads to {leads}, and this machine is {', '.join(own)}.", file=sys.stderr)


def way_out(target: str) -> str | None:
    """This machine's address on the way to the target. Nothing is sent."""
    with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def is_here(address: str | int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in str(address) else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def check_store(config: Config) -> None:
    """Traefik leaves out a store that it can't use, and with it every certificate. Raises Stop before that happens."""
    if not config.public:
        return
    path, volume = config.services["traefik"].environment[f"{ACME}STORAGE"], config.volumes["acme"]
    if not has_volume(volume):
        return
    # As Traefik's own user: `head` reads what `stat` may only see. Compose would change networks first.
    look = f"[ ! -e {path} ] || {{ stat -c %a {path} && head -c 1 {path}; }}"
    image = config.services["traefik"].image
    done = run_with(volume, "--volume", f"{volume}:/acme", "--entrypoint", "sh", image, "-c", look, check=False)
    mode, _, first = done.stdout.partition("\n")
    if done.returncode or (mode and mode != "600") or first not in ("", "{"):
        wrong = f"its mode is {mode} and not 600" if mode and first == "{" else done.stderr.strip() or "it is no JSON"
        raise Stop(
            f"Traefik can't use its store of certificates, {path} in the volume {volume}: {wrong}. Repair it with "
            f"`docker run --rm --user root --volume {volume}:/acme --entrypoint sh {config.project}-traefik -c "
            f"'chown 10010:10010 {path}; chmod 600 {path}'`, or, if it is damaged, move it away: another one is made."
        )


def wait_for_certificates(config: Config, begun: str) -> None:
    """Wait until each name has a certificate that browsers trust, and say how long it lasts.

    `begun`: since when Traefik's log is looked at, as `docker compose logs --since` takes it. Raises Stop as soon as
    it is known that one can't be had; the stack goes on running.
    """
    if not config.public:
        return
    names = [name for name in config.names if name not in config.own_certificates]
    missing = [name for name in names if problem(name, config)]
    if missing:
        # One that runs since before has had its answer, and would ask again only after CERTIFICATE_RETRY_SECONDS.
        compose("kill", "--signal", "HUP", "traefik", check=False)
        with step("Wait for the certificate"):
            by_record = config.services["traefik"].environment["ACME_DNS"]
            deadline = time.monotonic() + (RECORD_SECONDS if by_record else ISSUE_SECONDS)
            while len(acme_errors(missing, begun)) < len(missing) and time.monotonic() < deadline:
                time.sleep(0.5)
                missing = [name for name in missing if problem(name, config)]
    kept = stored(config)
    for name in names:
        if name not in missing:
            renews = not kept.isdisjoint({name, f"*.{name.partition('.')[2]}"})
            print(lasts(name, served(name, config), renews), file=sys.stderr)
    if missing:
        errors = acme_errors(missing, begun)
        reasons = [errors.get(name) or f"{name}: {problem(name, config)}" for name in missing]
        first = "The stack runs, but without a certificate that browsers trust. Traefik keeps trying."
        raise Stop("\n".join([first, *reasons]))


def problem(name: str, config: Config) -> str:
    try:
        served(name, config)
    except OSError as error:
        return str(error)
    return ""


def span(left: float) -> str:
    return f"{left / 86400:.0f} days" if left > 2 * 86400 else f"{left / 3600:.1f} hours"


def stored(config: Config) -> set[str]:
    """The names whose certificates are in Traefik's store: those that it renews."""
    # All else there is base64, or has other signs.
    argv = ("exec", "-T", "traefik", "grep", "-oE", '"[*a-z0-9-]+(\\.[a-z0-9-]+)+"')
    found = compose(*argv, config.services["traefik"].environment[f"{ACME}STORAGE"], check=False).stdout
    return {line.strip('"') for line in found.splitlines()}


def lasts(name: str, certificate: Certificate, renews: bool = True) -> str:
    left = span(certificate.left)
    if not renews:
        return f"The certificate of {name} ends in {left}, and does not renew itself: it is not in Traefik's store."
    if certificate.late():
        return (
            f"Warning: the certificate of {name} ends in {left}, and should have been renewed. "
            "`docker compose logs traefik | grep acme` says why not."
        )
    return f"The certificate of {name} lasts for {left} and renews itself."


def acme_errors(missing: list[str], begun: str) -> dict[str, str]:
    """For each name what the authority had against it, and what to do, from Traefik's log."""
    log = compose("logs", "--no-log-prefix", "--no-color", "--since", begun, "traefik", check=False).stdout
    found = {}
    for line in log.splitlines():
        if '"level":"error"' not in line or "acme" not in line:
            continue
        entry = json.loads(line)
        said = str(entry.get("error", entry.get("message")))
        for name in missing:
            # Not anywhere in the line: the router's rule in it names all.
            if name in entry.get("domains", []) or re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", said):
                remedy = next((text for pattern, text in REMEDIES.items() if re.search(pattern, said)), "")
                found[name] = f"{name}: {remedy.format(name=name)} (the authority said: {said.strip()})"
    return found
