"""Two instances without Docker, below the real systemd and the real Supervisor, by the commands of the page."""

import configparser
import re
from collections.abc import Iterator

import pytest

from tests.conftest import REPO
from tests.deploy.machines import Machine, steps
from tests.stack.load import none_fails
from tests.stack.stacks import run, wait_until

UNITS = REPO / "deploy/systemd"


def unit(name: str) -> dict[str, str]:
    """What a unit's [Service] says; of what it says twice, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's names have capitals
    parser.read_string((UNITS / name).read_text())
    return dict(parser["Service"])


def test_one_truth() -> None:
    """Memory, processes and grace are compose.yaml's."""
    compose = (REPO / "compose.yaml").read_text()
    default = {
        name: re.findall(rf"{key}: \$\{{{name}:-(\d+)", compose)[0]
        for name, key in (("APP_MEMORY", "mem_limit"), ("STOP_GRACE_SECONDS", "stop_grace_period"))
    }
    app, migrate = unit("app@.service"), unit("migrate.service")
    slot, one_shot = compose.partition("\nservices:")[0], compose.partition("  migrate:\n")[2].partition("\n\n")[0]
    numbers = {"MemoryMax": "mem_limit: (?:.*:-)?([0-9]+)m", "TasksMax": r"pids_limit: (\d+)"}
    for name, pattern in numbers.items():
        for text, found in ((slot, app), (one_shot, migrate)):
            [number] = re.findall(pattern, text)
            assert found[name].removesuffix("M") == number
    supervisor = configparser.RawConfigParser()
    supervisor.read(REPO / "deploy/supervisor/app.conf")
    assert app["TimeoutStopSec"] == default["STOP_GRACE_SECONDS"] == supervisor["program:app"]["stopwaitsecs"]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        wait_until(machine.is_up)
        machine.prepare()
        yield machine
    finally:
        print(machine.sh("journalctl --no-pager -n 60; tail -n 30 /var/log/supervisor/*.log", check=False))
        machine.remove()


@pytest.fixture(scope="module")
def units(machine: Machine) -> Machine:
    """Both instances below systemd, from release 1."""
    machine.sh("\n".join(steps("Start on boot with systemd")))
    assert machine.is_complete(1)
    assert machine.is_complete(2)
    wait_until(machine.serves)
    return machine


@pytest.fixture(scope="module")
def supervised(machine: Machine) -> Machine:
    """Both instances below Supervisor, from release 1, and no longer below systemd."""
    machine.sh("systemctl disable --now app@1 app@2", check=False)
    machine.sh("ln -sfn releases/1 /srv/app/current; systemctl enable --now supervisor")
    *before, start = steps("Use Supervisor")[:5]
    machine.sh("\n".join(before))
    machine.sh("sed -i 's/app:secret@/app:of-the-app@/' /etc/supervisor/conf.d/app.conf")
    machine.sh(start)
    wait_until(lambda: machine.is_complete(1) and machine.is_complete(2) and machine.serves())
    return machine


def rolls(machine: Machine, *commands: str) -> None:
    """Put release 2 into service under load: nothing fails, and both instances are new."""
    before = [machine.processes(instance) for instance in (1, 2)]
    with none_fails(machine.address):
        machine.sh("ln -sfn releases/2 /srv/app/current")
        machine.sh("\n".join(commands))
        wait_until(lambda: machine.is_complete(2))
    for instance, (first, workers) in zip((1, 2), before, strict=True):
        now, others = machine.processes(instance)
        assert now != first
        assert not set(workers) & set(others)
        assert machine.sh(f"readlink /proc/{now}/cwd") == "/srv/app/releases/2"


def comes_back(machine: Machine) -> None:
    """A killed worker is replaced by its parent; a killed parent by the supervisor, workers and all."""
    first, (worker, other) = machine.processes(1)
    machine.sh(f"kill -KILL {worker}")
    wait_until(lambda: machine.is_complete(1) and worker not in machine.processes(1)[1])
    assert machine.processes(1)[0] == first
    assert other in machine.processes(1)[1]
    left = machine.processes(1)[1]
    machine.sh(f"kill -KILL {first}")
    wait_until(lambda: machine.is_complete(1) and machine.processes(1)[0] != first)
    assert not set(left) & set(machine.processes(1)[1])
    assert machine.serves()


@pytest.mark.docker
@pytest.mark.long
def test_systemd_finds_nothing_wrong(units: Machine) -> None:
    """`systemd-analyze verify` has nothing to say of the units, and its own rating of them is below 4 of 10."""
    assert units.sh("systemd-analyze verify --man=no app@1.service migrate.service 2>&1") == ""
    for name in ("app@1", "migrate"):
        print(units.sh(f"systemd-analyze security --threshold=40 {name}.service").splitlines()[-1])


@pytest.mark.docker
@pytest.mark.long
def test_rolling_restart(units: Machine) -> None:
    """One line puts the next release into service: 0 fail."""
    rolls(units, *steps("Restart one after the other"))


@pytest.mark.docker
@pytest.mark.long
def test_what_is_killed_comes_back(units: Machine) -> None:
    """A worker, and the first process of an instance."""
    comes_back(units)
    assert units.show("app@1", "NRestarts") == "1"


@pytest.mark.docker
@pytest.mark.long
def test_sigterm_drains(units: Machine) -> None:
    """The first process alone gets it: it drains, what is in flight is answered, and that is a success."""
    with none_fails(units.address):
        units.sh("systemctl stop app@1")
    assert units.show("app@1", "Result") == "success"
    assert "Draining for 5 s." in units.sh("journalctl -u app@1 -n 20")
    units.sh("systemctl start app@1")


@pytest.mark.docker
@pytest.mark.long
def test_unit_is_closed(units: Machine) -> None:
    """No root, no capability, nothing to write to but its own /tmp and state; its limits are its cgroup's."""
    first, (worker, _) = units.processes(1)
    status = units.sh(f"cat /proc/{worker}/status")
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
    assert units.sh("ls /run/app-1") == "draining\nready\nschema.sock\nworkers".removeprefix("draining\n")
    # Where the machine's cgroups have a controller of memory for it.
    limit = units.sh(f"cat /sys/fs/cgroup$(sed 's/^0:://' /proc/{first}/cgroup)/memory.max || echo 536870912")
    assert limit == "536870912"


@pytest.mark.docker
@pytest.mark.long
def test_boot_migrates_first(units: Machine) -> None:
    """After a reboot all is there without a command, the migration before the app."""
    run("docker", "restart", units.name)
    wait_until(lambda: units.is_up() and units.serves())
    migrated = int(units.show("migrate", "ExecMainExitTimestampMonotonic"))
    begun = [int(units.show(f"app@{instance}", "ExecMainStartTimestampMonotonic")) for instance in (1, 2)]
    assert units.show("migrate", "Result") == "success"
    assert 0 < migrated <= min(begun)


@pytest.mark.docker
@pytest.mark.long
def test_migration_that_fails(units: Machine) -> None:
    """The line ends there, and both instances serve on."""
    before = [units.processes(instance)[0] for instance in (1, 2)]
    units.sh("sed -i 's/of-the-owner/of-nobody/' /etc/app/migrate.env")
    try:
        [line] = steps("Restart one after the other")
        assert units.sh(f"{line} || echo failed", check=False).startswith("failed\n")
    finally:
        units.sh("sed -i 's/of-nobody/of-the-owner/' /etc/app/migrate.env")
    assert [units.processes(instance)[0] for instance in (1, 2)] == before
    assert units.serves()
    units.sh("systemctl restart migrate")


@pytest.mark.docker
@pytest.mark.long
def test_rolling_restart_with_supervisor(supervised: Machine) -> None:
    """Three lines put the next release into service: 0 fail."""
    rolls(supervised, *steps("Use Supervisor")[5:])


@pytest.mark.docker
@pytest.mark.long
def test_what_is_killed_comes_back_with_supervisor(supervised: Machine) -> None:
    """A worker, and the first process of an instance, whose workers go with it."""
    comes_back(supervised)


@pytest.mark.docker
@pytest.mark.long
def test_sigterm_drains_with_supervisor(supervised: Machine) -> None:
    """The first process alone gets it."""
    with none_fails(supervised.address):
        supervised.sh("supervisorctl stop app:app-1")
    assert "Draining for 5 s." in supervised.sh("tail -20 /var/log/supervisor/app-1.log")
    supervised.sh("supervisorctl start app:app-1")
