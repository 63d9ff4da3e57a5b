"""What an app brings besides its web process: workers, a scheduler that must be alone, programs that run once."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.stack.backups import ok
from tests.stack.beside import brought_up
from tests.stack.jobs import IN_FLIGHT, MINUTES, OVERRIDE, TOGETHER, UP_TO_DATE, WRONG, Jobs, Work
from tests.stack.load import Load
from tests.stack.spa import Tab
from tests.stack.stacks import CLEAN, inspect, run, wait_until


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with brought_up(Jobs(tmp_path_factory.mktemp("processes") / "stack")) as made:
        yield made


def test_up_starts_them_with_the_app(jobs: Jobs) -> None:
    """Two workers, one scheduler and what is no process of the app's, all from the override file."""
    running = jobs.compose("ps", "--status", "running", "--format", "{{.Service}}").split()
    assert sorted(running) == [
        "app-1",
        "app-2",
        "backup",
        "cron",
        "mail",
        "postgres",
        "redis",
        "scheduler",
        "static",
        "traefik",
        "worker",
        "worker",
    ]
    assert "Nothing changed" in ok(jobs.stack("up"))
    jobs.compose("up", "--detach", "--wait")
    assert "Nothing changed" in ok(jobs.stack("up"))
    [row] = json.loads(ok(jobs.stack("releases", "--json")))
    assert sorted(row["slots"]) == ["app-1", "app-2"]
    assert sorted(row["processes"]) == ["cron", "scheduler", "static-files", "worker"]
    limits = json.loads(ok(jobs.stack("plan", "--json")))["limits"]
    assert (limits["redis"], limits["worker"], limits["mail"]) == (256, 512, 64)


def test_redis_is_closed(jobs: Jobs) -> None:
    """As the stack's own: without root, a capability, a network. Its volume is the slots' and the workers', to read."""
    found = jobs.containers()
    host, config = found["redis"]["HostConfig"], found["redis"]["Config"]
    assert (config["User"], host["NetworkMode"], host["ReadonlyRootfs"]) == ("redis", "none", True)
    assert (host["CapDrop"], host["CapAdd"], host["SecurityOpt"]) == (["ALL"], None, ["no-new-privileges:true"])
    volume = f"{jobs.project}_redis"
    mounts = {name: [one["RW"] for one in found[name]["Mounts"] if one.get("Name") == volume] for name in found}
    shared = {name: may_write for name, [may_write] in ((name, one) for name, one in mounts.items() if one)}
    assert shared == {"redis": True, "app-1": False, "app-2": False, "worker": False}
    program = "import os, redis; print(redis.from_url(os.environ['REDIS_URL']).ping(), os.listdir('/run/redis'))"
    assert ok(jobs.stack("run", "--", "python", "-c", program)).startswith("True ")
    files = "import os; os.listdir('/run/redis/appendonlydir')"
    assert "Permission denied" in jobs.compose("exec", "-T", "app-1", "python", "-c", files, check=False)


def test_full_redis_refuses(jobs: Jobs) -> None:
    """It throws nothing away, and has the memory that its limits promise, a rewrite of its log meanwhile."""
    jobs.compose("stop", "worker")
    jobs.redis("SET", "kept", "yes")
    # Not by one script: the server asks for room only before it begins.
    large = "return redis.call('RPUSH', 'fill', string.rep('x', 1048576))"
    for count, *command in (("100", "EVAL", large, "0"), ("3000", "RPUSH", "fill", "x" * 512)):
        assert "OOM command not allowed" in jobs.redis("-r", count, *command, check=False)
    jobs.redis("BGREWRITEAOF")
    wait_until(lambda: "aof_rewrite_in_progress:0" in jobs.redis("INFO", "persistence"))
    with jobs.client() as client:
        # Of small ones there is room for a few.
        wait_until(lambda: client.post("/things", json={"name": "one too many"}).status_code == 500)
    assert jobs.redis("GET", "kept") == "yes"
    redis = jobs.containers()["redis"]
    assert (redis["RestartCount"], redis["State"]["OOMKilled"]) == (0, False)
    jobs.redis("DEL", "fill")
    # The last one was not queued.
    jobs.psql("DELETE FROM things WHERE id = (SELECT max(id) FROM things)")
    jobs.compose("start", "worker")
    wait_until(jobs.all_done)
    jobs.psql("TRUNCATE things, runs")


def test_job_in_flight_is_finished(jobs: Jobs) -> None:
    """A worker that is told to stop ends its jobs, and begins none; what waits is for the next one."""
    # On a busy machine many are done while the worker is told.
    given = jobs.queue(200)
    wait_until(lambda: jobs.psql(IN_FLIGHT) != "0")
    jobs.compose("stop", "worker")
    begun = int(jobs.psql("SELECT count(*) FROM runs"))
    assert 0 < begun < len(given)
    assert jobs.psql(IN_FLIGHT) == "0"
    jobs.compose("start", "worker")
    wait_until(jobs.all_done)
    assert int(jobs.psql("SELECT count(DISTINCT thing) FROM runs")) == len(given)
    assert jobs.psql(WRONG) == ""


@pytest.fixture
def by_hand(jobs: Jobs) -> Iterator[str]:
    """The container of a process that somebody started by hand."""
    jobs.compose("--profile", "by-hand", "up", "--detach", "--no-deps", "tool")
    tool = jobs.tool()
    assert tool
    yield tool
    run("docker", "rm", "--force", *jobs.tool().split(), check=False)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("rounds", [3, pytest.param(10, marks=pytest.mark.long)])
def test_deploys_lose_no_job(jobs: Jobs, by_hand: str, rounds: int) -> None:
    """Releases under load, one of them broken: no request fails, no page breaks, each job runs once, so does each
    minute of cron, and there is one scheduler at most. What somebody started by hand stays.
    """
    mail, pages, fetched = jobs.container("mail"), list[str](), 0
    with Load(jobs.address, paths=("/", "/things")) as load, Work(jobs.address) as work:
        for number in range(rounds):
            broken = number == 1
            before, redis = jobs.images(), jobs.container("redis")
            worker = jobs.app / "jobs/worker.py"
            text = worker.read_text()
            if broken:
                worker.write_text("raise SystemExit('no such queue')\n")
            jobs.commit()
            # A page stays open over the deploy, and others are opened.
            with Tab(jobs.address) as tab:
                done = jobs.stack("deploy")
            worker.write_text(text)
            pages, fetched = pages + tab.failed, fetched + tab.fetched
            if broken:
                assert done.returncode == 1
                assert "no such queue" in done.stderr
                assert jobs.images() == before
            else:
                ok(done)
                assert len(jobs.images()) == 1
                assert jobs.images() != before
            assert jobs.container("redis") == redis
    wait_until(jobs.all_done)
    wait_until(lambda: jobs.psql(UP_TO_DATE) == "t")
    minutes, each_once = jobs.psql(MINUTES).split("|")
    ended = {int(line) for line in jobs.psql("SELECT thing FROM runs WHERE ended_at IS NOT NULL").split()}
    wrong = jobs.psql(WRONG).split()
    print(load.report(), f"{fetched} files and pages, {len(pages)} failed; {minutes} minutes of cron", sep="\n")
    print(f"{len(work.given)} jobs, {len(set(work.given) - ended)} lost, {len(wrong)} cut off or run twice")
    assert (load.failed, work.refused, pages) == ([], [], [])
    assert len(work.given) > 20 * rounds
    assert set(work.given) <= ended
    assert wrong == []
    assert jobs.psql(TOGETHER) == "0"
    assert each_once == "t", jobs.psql("SELECT due, began_at, ended_at FROM beats ORDER BY due")
    assert (jobs.container("mail"), jobs.tool()) == (mail, by_hand)


def test_rollback_takes_them_along(jobs: Jobs) -> None:
    """After it they run the previous release's image too."""
    before, redis = jobs.images(), jobs.container("redis")
    ok(jobs.stack("rollback"))
    [now] = jobs.images()
    assert {now} != before
    assert jobs.container("redis") == redis
    assert jobs.psql(TOGETHER) == "0"


def test_what_an_interrupted_command_left_is_ended_first(jobs: Jobs) -> None:
    """Two containers of one that must be alone: both end before another starts."""
    jobs.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "scheduler=2", "scheduler")
    wait_until(lambda: jobs.psql(TOGETHER) == "1")
    jobs.psql("DELETE FROM shifts")
    jobs.commit()
    ok(jobs.stack("deploy"))
    jobs.psql("DELETE FROM shifts WHERE seen_at IS NULL")
    assert len(jobs.compose("ps", "--quiet", "scheduler").split()) == 1


def test_restore_stops_them(jobs: Jobs, by_hand: str) -> None:
    """What they would write into the old database would be lost. All run again, also what somebody started by hand."""
    ok(jobs.stack("backup"))
    begun = inspect(by_hand.strip())["State"]["StartedAt"]
    before = {service: one["State"]["StartedAt"] for service, one in jobs.containers().items()}
    ok(jobs.stack("restore", "--to", "latest", "--yes"))
    after = jobs.containers()
    for service in ("worker", "scheduler"):
        assert after[service]["State"]["Running"]
        assert after[service]["State"]["StartedAt"] > before[service]
    for service in ("redis", "mail", "static"):
        assert after[service]["State"]["StartedAt"] == before[service]
    assert jobs.tool().strip() == by_hand.strip()
    assert inspect(by_hand.strip())["State"]["StartedAt"] > begun


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_restore_brings_them_back(jobs: Jobs, number: signal.Signals) -> None:
    """With a job in flight, and while they stop: it is finished, and they run again, on the database that was."""

    def in_the_middle() -> None:
        jobs.queue(10)
        wait_until(lambda: "draining" in jobs.compose("exec", "-T", "app-1", "cat", "/tmp/.stack/workers", check=False))  # noqa: S108

    argv = ("restore", "--to", "latest", "--yes")
    if number == signal.SIGKILL:
        jobs.interrupted(number, "==> Stop the slots", *argv)
        assert "did not come to its end: back to " in jobs.stack("up").stderr
    else:
        assert jobs.interrupted(number, "==> Check the settings", *argv, then=in_the_middle).returncode == 130
    running = jobs.compose("ps", "--status", "running", "--format", "{{.Service}}").split()
    assert [running.count(one) for one in ("worker", "scheduler", "cron")] == [2, 1, 1]
    given = jobs.queue(10)
    wait_until(jobs.all_done)
    ran = jobs.psql("SELECT thing FROM runs").split()
    assert [ran.count(str(one)) for one in given] == [1] * 10
    assert jobs.psql(WRONG) == ""


def test_up_applies_the_settings_of_accessories(jobs: Jobs) -> None:
    """Nothing else starts anew, and what was queued is done. A wrong one brings back what was."""
    before = {service: one["Id"] for service, one in jobs.containers().items()}
    jobs.compose("stop", "worker")
    given = jobs.queue(5)
    jobs.compose("stop", "mail")
    jobs.override(OVERRIDE.replace("--maxmemory, 64mb", "--maxmemory, 65mb"))
    jobs.commit()
    said = jobs.stack("deploy").stderr
    assert "redis still runs with its old settings" in said
    assert "==> Start mail: " in said
    ok(jobs.stack("up"))
    after = {service: one["Id"] for service, one in jobs.containers().items()}
    unchanged = {service for service in before if after[service] == before[service]}
    assert unchanged == {"traefik", "postgres", "backup", "mail", "static"}
    assert jobs.redis("CONFIG", "GET", "maxmemory").split() == ["maxmemory", str(65 * 2**20)]
    wait_until(jobs.all_done)
    ran = jobs.psql("SELECT thing FROM runs").split()
    assert [ran.count(str(one)) for one in given] == [1] * 5
    jobs.override(OVERRIDE.replace("noeviction", "nonsense"))
    done = jobs.stack("up")
    assert done.returncode == 1
    assert "redis ended:" in done.stderr
    assert "maxmemory-policy" in done.stderr
    assert jobs.redis("CONFIG", "GET", "maxmemory").split() == ["maxmemory", str(65 * 2**20)]
    without_mail = OVERRIDE.partition("  mail:")[0]
    jobs.override(without_mail)
    assert "No setting and no file of Compose's has mail any more" in jobs.stack("up").stderr
    assert "mail" not in jobs.containers()


def test_a_program_runs_once_with_what_serves(jobs: Jobs) -> None:
    """With the image, the variables and the role of the app; its exit code and output are passed on."""
    program = "import os,sys; print(os.environ['PGUSER'], os.path.exists('release.txt')); sys.exit(7)"
    done = jobs.stack("run", "--", "python", "-c", program)
    assert (done.returncode, done.stdout) == (7, "app True\n")
    done = jobs.stack("run", "--owner", "--", "python", "-c", program)
    assert (done.returncode, done.stdout) == (7, "owner True\n")


def test_program_gets_the_signals(jobs: Jobs) -> None:
    """It ends as it wants to."""
    program = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print('here', flush=True); signal.pause()"
    argv = (sys.executable, "stack", "run", "--", "python", "-c", program)
    with subprocess.Popen(argv, cwd=jobs.folder, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        process.terminate()
        assert process.wait(60) == 3


def test_nothing_runs_beside_a_restore(jobs: Jobs) -> None:
    """What it would write may be lost."""
    journal = jobs.folder / ".stack/journal.json"
    journal.write_text(json.dumps({"verb": "restore", "new": "another", "old": "this"}))
    try:
        for arguments in (("run", "--", "true"), ("psql", "--", "-c", "SELECT 1")):
            done = jobs.stack(*arguments)
            assert done.returncode == 1
            assert "`./stack restore` is under way" in done.stderr
    finally:
        journal.unlink()


def test_psql_is_the_apps(jobs: Jobs) -> None:
    """As the app's role, or the schema's owner's."""
    for arguments, role in (((), "app"), (("--owner",), "owner")):
        done = jobs.stack("psql", *arguments, "--", "-XqAtc", "SELECT current_user")
        assert (done.returncode, done.stdout) == (0, f"{role}\n")


def test_down_leaves_nothing(jobs: Jobs) -> None:
    """They are Compose's own services."""
    jobs.compose("down")
    assert jobs.left_behind() == ""
