"""Certificates by file: certificates/NAME.crt and NAME.key for each name of OWN_CERTIFICATES, and CLIENT_CA's."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.config import Config
from ops.door.ask import ToThisMachine, untrusting
from ops.door.certificate import Certificate, span
from ops.run import HERE, Stop, compose, docker, step

CERTIFICATES = HERE / "certificates"
# Traefik's own, in traefik/Dockerfile. No user of this machine is in it.
GROUP = 10010
# Seconds until Traefik serves what it was told to read.
READ_SECONDS = 30
# Seconds before its end from which on a certificate is a warning.
SOON = 30 * 86400
# OpenSSL's X509_V_FLAG_PARTIAL_CHAIN, which Python 3.9 has no name for.
PARTIAL_CHAIN = 0x80000
REASONS = {
    "KEY_VALUES_MISMATCH": "the key is another certificate's",
    "NO_START_LINE": "one of them is no PEM",
}


@dataclass(frozen=True)
class Own:
    """What the files of a name hold: the certificate's dates, and all of it as a client gets it."""

    name: str
    certificate: Certificate
    der: bytes
    # Those that it is for, in the order by which Traefik takes one of several.
    names: tuple[str, ...] = ()

    def is_for(self, name: str) -> bool:
        return not {name, f"*.{name.partition('.')[2]}"}.isdisjoint(self.names)

    def says(self) -> str:
        found = self.certificate
        if found.late(3) and found.left < SOON:
            return f"Warning: certificates/{self.name}.crt ends in {span(found.left)}. Put a newer one there."
        return f"The certificate of {self.name} is certificates/{self.name}.crt, and lasts for {span(found.left)}."


def files(name: str) -> tuple[Path, Path]:
    return CERTIFICATES / f"{name}.crt", CERTIFICATES / f"{name}.key"


def check_own(config: Config) -> list[Own]:
    """What the files hold. Raises Stop with 2 where they can't serve their name, before anything is touched."""
    found = []
    for name in config.own_certificates:
        certificate, key = files(name)
        for path in (certificate, key):
            check_place(path, f"OWN_CERTIFICATES names {name}")
        if key.stat().st_mode & 0o004:
            print(
                f"Everybody on this machine can read certificates/{key.name}: chmod o= certificates/{key.name}",
                file=sys.stderr,
            )
        try:
            found.append(tried(name, certificate, key))
        except OSError as error:
            said = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
            reason = REASONS.get(said, said.rstrip("."))
            raise Stop(f"certificates/{name}.crt and {name}.key can't serve {name}: {reason}.", 2) from None
    for one in found:
        # Of those with the same names it takes the first, of others that which comes last by its names.
        taken = max(filter(lambda other: other.is_for(one.name), found), key=lambda other: ",".join(other.names))
        if taken.der != one.der:
            raise Stop(
                f"certificates/{taken.name}.crt is for {one.name} too, and Traefik would serve it in place of "
                f"certificates/{one.name}.crt: copy {taken.name}.crt and {taken.name}.key to {one.name}.crt and .key.",
                2,
            )
    return found


def check_place(path: Path, why: str) -> None:
    """Raises Stop with 2 where Traefik would not find it."""
    if not path.is_file():
        raise Stop(f"{why}, and there is no certificates/{path.name}: put it there.", 2)
    # The folder has another name in the container.
    absolute = path.is_symlink() and os.path.isabs(os.readlink(path))
    if absolute or CERTIFICATES.resolve() not in path.resolve().parents:
        raise Stop(f"certificates/{path.name} leads out of its folder, where Traefik can't go: copy it.", 2)


def client_ca(config: Config) -> str:
    """The file of the authority that every client needs a certificate of, or nothing."""
    return config.services["traefik"].environment.get("CLIENT_CA", "")


def check_client_ca(config: Config) -> None:
    """Raises Stop with 2 where no client could have a certificate of it, before anything is touched."""
    if not client_ca(config):
        return
    path = CERTIFICATES / client_ca(config)
    check_place(path, f"CLIENT_CA names {path.name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(path)
    except PermissionError:
        raise Stop(f"CLIENT_CA: you may not read certificates/{path.name}. Make it yours, or be root.", 2) from None
    except OSError:
        raise Stop(f"CLIENT_CA={path.name} is wrong: certificates/{path.name} is no certificate in PEM.", 2) from None
    ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in context.get_ca_certs()]
    if not ends:
        raise Stop(f"CLIENT_CA={path.name} is wrong: the certificate there is no authority's. Take your CDN's.", 2)
    if max(ends) < time.time():
        raise Stop(f"CLIENT_CA={path.name} is wrong: the authority's certificate has expired. Take a newer one.", 2)
    if max(ends) < time.time() + SOON:
        left = span(max(ends) - time.time())
        print(f"Warning: certificates/{path.name} ends in {left}, and then nobody comes in.", file=sys.stderr)


def tried(name: str, certificate: Path, key: Path) -> Own:
    """Serve the name with them to a client in this process. Raises OSError with the reason."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password=refuse)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whether anybody trusts who issued it is not known here.
    client.load_verify_locations(certificate)
    client.verify_flags |= PARTIAL_CHAIN
    client.hostname_checks_common_name = False
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname=name)
    answering = server.wrap_bio(there, back, server_side=True)
    for side in (asking, answering, asking, answering):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown: Any = asking.getpeercert()
    dates = (ssl.cert_time_to_seconds(shown[key]) for key in ("notBefore", "notAfter"))
    common = [value for part in shown["subject"] for key, value in part if key == "commonName"]
    names = {value.lower() for value in [*common, *(value for _, value in shown.get("subjectAltName", ()))]}
    return Own(name, Certificate(*dates), asking.getpeercert(True) or b"", tuple(sorted(names)))


def refuse() -> str:
    """In place of asking for a key's password."""
    raise OSError("the key has a password, which Traefik would not know")


def open_routes() -> None:
    """Let Traefik's own user read its routes, whatever the umask of the clone."""
    folder = HERE / "traefik/dynamic"
    for path in [folder, *folder.glob("*.yaml")]:
        now = path.stat()
        right = now.st_mode | (0o755 if path.is_dir() else 0o444)
        # One that was given to Traefik is a user's own, and nobody else's to read.
        if now.st_mode != right and GROUP not in (now.st_uid, now.st_gid):
            path.chmod(right)


def let_read(config: Config) -> None:
    """Let Traefik's own group read the files, and nobody else who could not."""
    paths = [path for name in config.own_certificates for path in files(name)]
    paths += [CERTIFICATES / client_ca(config)] if client_ca(config) else []
    wanted = [(path, 0o040) for path in paths] + [(CERTIFICATES, 0o050)] * bool(paths)
    if all(path.stat().st_gid == GROUP and path.stat().st_mode & right == right for path, right in wanted):
        return
    # In a container: only root may give a file to a group that it is not in.
    rights = ("--user", "root", "--cap-drop=ALL", "--cap-add=CHOWN", "--cap-add=FOWNER", "--cap-add=DAC_OVERRIDE")
    where = ("--network", "none", "--volume", f"{CERTIFICATES}:/certificates", "--workdir", "/certificates")
    # First the group, then what it may.
    script = f'chgrp {GROUP} . "$@" && chmod g+rx . && chmod g+r,g-w "$@"'
    image = config.services["traefik"].image
    names = [path.name for path in paths]
    docker("run", "--rm", *rights, *where, "--entrypoint", "sh", image, "-c", script, "sh", *names)


def wait_for_own(config: Config, own: list[Own]) -> None:
    """Have Traefik read the files, wait until it serves what they hold, and say how long that lasts. Raises Stop."""
    if not own:
        return
    compose("kill", "--signal", "HUP", "traefik", check=False)
    with step("Wait for the certificates of certificates/"):
        deadline = time.monotonic() + READ_SECONDS
        while late := [one.name for one in own if shown(one.name, config.ports[1], config.addresses[1]) != one.der]:
            if time.monotonic() > deadline:
                raise Stop(
                    f"Traefik does not serve certificates/{late[0]}.crt: `docker compose logs traefik` says why."
                )
            time.sleep(0.2)
    print("\n".join(one.says() for one in own), file=sys.stderr)


def shown(name: str, port: int, address: str = "127.0.0.1") -> bytes:
    """The certificate that this machine serves for the name; nothing where there is no handshake."""
    connection = ToThisMachine(name, port, untrusting(), address)
    try:
        connection.connect()
        found: Any = connection.sock
        return bytes(found.getpeercert(True))
    except OSError:
        return b""
    finally:
        connection.close()
