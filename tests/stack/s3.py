"""An S3 server with TLS, for copies elsewhere: rclone's, of the backup service's own image."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.stack.stacks import run

SERVE = ("serve", "s3", "--addr=:9000", "--cert=/s3/cert.pem", "--key=/s3/key.pem", "--auth-key=who,secret", "/s3/data")

# A program for the backup container: the bucket's owner has been silent for long.
OWNER_LOST = """
import json
from backup import bucket
known, owner = bucket.whose()
owner["at"] = "2026-01-01T00:00:00+00:00"
bucket.rclone("rcat", f"{bucket.BUCKET}/owner.json", input=json.dumps(owner))
"""


@dataclass
class Server:
    # What it stores.
    data: Path
    # The lines of .env that name it.
    settings: str


@contextlib.contextmanager
def serve(name: str, image: str, folder: Path) -> Iterator[Server]:
    """Serve from the empty folder, in a container and a network of this name."""
    subject = ("-subj", "/CN=s3.test", "-addext", "subjectAltName=DNS:s3.test")
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key.pem"))
    run("openssl", "req", "-x509", "-days", "2", *key, "-out", str(folder / "cert.pem"), *subject)
    keys = folder / "keys"
    keys.write_text(
        "ACCESS_KEY_ID=who\nSECRET_ACCESS_KEY=secret\nPASSWORD=correct horse\n" + (folder / "cert.pem").read_text()
    )
    # As an operator does it: the stack makes no bucket.
    (folder / "data/backups").mkdir(parents=True)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 10003, 10003)
    folder.chmod(0o700)
    settings = f"BACKUP_S3_ENDPOINT=https://s3.test:9000\nBACKUP_S3_BUCKET=backups\nBACKUP_S3_KEYS={keys}\n"
    with contextlib.ExitStack() as after:
        run("docker", "rm", "--force", "--volumes", name, check=False)
        run("docker", "network", "rm", name, check=False)
        run("docker", "network", "create", name)
        after.callback(run, "docker", "network", "rm", name)
        where = ("--network", name, "--network-alias", "s3.test", "--volume", f"{folder}:/s3")
        run("docker", "run", "--detach", "--name", name, *where, "--entrypoint", "rclone", image, *SERVE)
        after.callback(run, "docker", "rm", "--force", "--volumes", name)
        yield Server(folder / "data", f"{settings}BACKUP_NETWORK={name}\n")
