"""A plain server, in a container: systemd as PID 1 of a Debian, Postgres, HAProxy, Supervisor."""

import re
import subprocess
import zlib
from pathlib import Path

import httpx2

from offline.images import build, exists
from tests.conftest import REPO
from tests.stack.stacks import CLEAN, free_ports, run

PAGE = (REPO / "docs/supervisors.md").read_text()
# As docs/database.md has it.
ROLES = (
    "runuser -u postgres -- createdb app && cat /srv/app/stack/deploy/postgres/roles.sql | "
    "runuser -u postgres -- env OWNER_PASSWORD=of-the-owner APP_PASSWORD=of-the-app "
    "psql -Xq --set=owner=owner --set=app=app app"
)


def steps(heading: str) -> list[str]:
    """The command of each numbered step below that heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    items = re.findall(r"^\d+\. ((?:.+\n)(?: +.+\n)*)", section, re.MULTILINE)
    return [item.strip().rpartition(": ")[2].strip("`") for item in items]


# What systemd needs to mount, and `ss` to see whose a socket is; not --privileged, which may change the machine.
RIGHTS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
)


class Machine:
    """A server of its own, in a container."""

    def __init__(self) -> None:
        self.name = f"stack-test-supervisors-{zlib.crc32(str(REPO).encode()):08x}"
        [self.port] = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"
        self.remove()
        argument, folder = f"BASE={build('PYTHON_IMAGE')}", str(REPO / "tests/deploy/supervisors")
        run("docker", "build", "--quiet", "--build-arg", argument, "--tag", self.name, folder)
        own = ("--name", self.name, "--env", f"NAME={self.name}", "--publish", f"{self.port}:80")
        run("docker", "run", "--detach", *RIGHTS, *own, "--cgroupns", "private", "--tmpfs", "/run", self.name)

    def remove(self) -> None:
        run("docker", "rm", "--force", "--volumes", self.name, check=False)
        if exists(self.name):
            # What systemd made in a hierarchy of the machine's, where it got none of its own.
            clean = f"mount -t cgroup2 none /mnt; find /mnt/{self.name} -depth -type d -exec rmdir {{}} +"
            run("docker", "run", "--rm", *RIGHTS, self.name, "sh", "-c", clean, check=False)
            run("docker", "image", "rm", "--force", self.name, check=False)

    def sh(self, command: str, check: bool = True) -> str:
        return run("docker", "exec", self.name, "sh", "-ec", command, check=check).strip()

    def copy(self, source: Path, target: str) -> None:
        run("docker", "cp", f"{source}/.", f"{self.name}:{target}")

    def is_up(self) -> bool:
        return self.sh("systemctl is-system-running", check=False) in ("running", "degraded")

    def write(self, file: str, text: str) -> None:
        argv = ["docker", "exec", "-i", self.name, "sh", "-c", f"cat > {file}"]
        subprocess.run(argv, input=text, text=True, check=True, env=CLEAN, timeout=60)

    def show(self, name: str, what: str) -> str:
        return self.sh(f"systemctl show --value -p {what} {name}")

    def prepare(self) -> None:
        """A database by TCP with passwords, the checkout of the stack, two releases, and the settings."""
        for folder in ("runtime", "deploy"):
            self.sh(f"mkdir -p /srv/app/stack/{folder} /etc/app")
            self.copy(REPO / folder, f"/srv/app/stack/{folder}")
        self.sh("until pg_isready -q; do sleep 0.2; done")
        self.sh(ROLES)
        for file, role in (("app", "app"), ("migrate", "owner")):
            url = f"postgresql://{role}:of-the-{role}@127.0.0.1/app"
            # However many CPUs the machine has.
            self.write(f"/etc/app/{file}.env", f"STACK_DATABASE_URL={url}\nSTACK_WORKERS=2\n")
        self.sh("chmod 600 /etc/app/*.env; cp /haproxy.cfg /etc/haproxy/haproxy.cfg; systemctl enable --now haproxy")
        for number in (2, 1):
            self.install(number)

    def install(self, number: int) -> None:
        """A release, as the page has it."""
        self.sh(f"mkdir -p /srv/app/releases/{number}")
        self.copy(REPO / "tests/apps/notes", f"/srv/app/releases/{number}")
        # Whatever the umask of this checkout.
        self.sh(f"chmod -R a+rX /srv/app/releases/{number}")
        given = [one.replace("releases/1", f"releases/{number}") for one in steps("Install a release")]
        self.sh("\n".join(one for one in given if not one.startswith("git ")))

    def release(self) -> str:
        return self.sh("readlink /srv/app/current")

    def serves(self) -> bool:
        try:
            return httpx2.get(f"{self.address}/health", timeout=10).json().get("at_head") is True
        except (httpx2.HTTPError, ValueError):
            return False

    def processes(self, instance: int) -> tuple[int, list[int]]:
        """The first process of an instance, and its workers, by whichever supervisor."""
        found = self.sh(f"ss -Hltnp sport = :900{instance} | grep -o 'pid=[0-9]*' | head -1", check=False)
        first = int(found.removeprefix("pid=") or 0)
        workers = self.sh(f"cat /proc/{first}/task/{first}/children", check=False) if first else ""
        return first, [int(one) for one in workers.split() if one.isdigit()]

    def is_complete(self, instance: int) -> bool:
        """Whether it is ready, with all of its workers."""
        asked = self.sh(f"curl -s -o /dev/null -w %{{http_code}} 127.0.0.1:900{instance}/ready", check=False)
        return asked == "200" and len(self.processes(instance)[1]) == 2
