"""CPU seconds an hour of a stack that nobody asks: `.venv/bin/python -m benchmarks.idle [SECONDS]`, 200 unless told.

What the kernel counts for each container, checks included, and for the engine with what it starts for them: that of
every container on the machine. Two windows, ten minutes after the start, when the first backup is long made. A machine
is not as fast every day: beside them stands what a start of Python takes in the same window, which no release changes.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.stack.stacks import Clone, run

ENGINE = {"dockerd", "containerd", "containerd-shim"}
AFTER = 600


def of_container(container: str) -> float:
    """Its CPU seconds up to now, by cgroup v2 or v1."""
    for file in Path("/sys/fs/cgroup").glob(f"**/*{container}*/cpu*"):
        text = file.read_text() if file.name in ("cpu.stat", "cpuacct.usage") else ""
        if file.name == "cpuacct.usage":
            return int(text) / 1e9
        if text.startswith("usage_usec"):
            return int(text.split()[1]) / 1e6
    raise FileNotFoundError(f"no count of the CPU time of the container {container}")


def of_engine() -> dict[str, float]:
    """The same of each of the engine's processes, with those that it has started and waited for."""
    lines = run("ps", "-e", "-o", "pid=,comm=").splitlines()
    found = [pid for pid, name in (line.split(None, 1) for line in lines) if name in ENGINE]
    ticks = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15] for pid in found}
    return {pid: sum(map(int, four)) / 100 for pid, four in ticks.items()}


def start_of_python(seconds: float) -> float:
    """For so long, start one every other second, as the checks do in the containers; the mean CPU seconds of one."""
    count, before = 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        count += 1
        time.sleep(2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder), "idle")
        clone.remove()
        try:
            started = clone.stack("up")
            assert started.returncode == 0, started.stderr
            running = {name: one["Id"] for name, one in clone.containers().items() if one["State"]["Running"]}
            time.sleep(AFTER)
            for _ in range(2):
                before, engine = {name: of_container(one) for name, one in running.items()}, of_engine()
                begun = time.monotonic()
                start = start_of_python(seconds)
                hours = (time.monotonic() - begun) / 3600
                found = {name: (of_container(one) - before[name]) / hours for name, one in running.items()}
                spent = sum(ticks - engine.get(pid, ticks) for pid, ticks in of_engine().items()) / hours
                print({name: round(taken, 1) for name, taken in found.items()})
                print(f"containers {sum(found.values()):.1f}, engine {spent:.1f}, start of Python {start * 1e3:.1f} ms")
        finally:
            clone.remove()


if __name__ == "__main__":
    main()
