"""`./stack plan`: what the sizes come to on this machine, what is left, and what to set to use it.

`./stack up` refuses what this finds too large. The arithmetic of a slot is the runtime's own, in runtime/limits.py.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from ops.allowed import TIMEOUTS
from ops.config import CONNECTIONS, Config, Service
from ops.machine.checks import configuration
from ops.machine.install import ensure_docker
from ops.run import Stop, engine_facts
from runtime import limits

# Percent of the machine's memory that limits should come to: below it is idle, above it the kernel has no page cache.
GOOD = range(50, 91)
# MiB to which a recommendation is rounded down.
STEP = 64
# Recommendations to try, roomiest first: percent of the machine for all limits together, and for Postgres's.
SHARES = ((75, 25), (90, 25), (90, 15), (100, 15))


def plan(as_json: bool, replicas: int | None, surge: int) -> None:
    """Of this machine, or of an app that runs `replicas` times, on whatever machines and engine. Raises Stop with 2."""
    if replicas is not None and (replicas < 1 or surge < 0):
        raise Stop(f"--replicas {replicas} --surge {surge} is wrong: one or more, and none or more.", 2)
    ensure_docker()
    config = configuration()
    found = scale(config, engine_facts()["NCPU"], replicas, surge) if replicas else figures(config)
    table = scale_table if replicas else plan_table
    print(json.dumps(found, indent=2) if as_json else table(found))


def check_sizes(config: Config) -> None:
    """Refuse limits that the machine, a slot or Postgres can't hold. Raises Stop with 2."""
    problem = figures(config)["problem"]
    if problem:
        raise Stop(problem, 2)


def figures(config: Config) -> dict[str, Any]:
    """The plan as data: MiB, CPUs, connections; `problem` is a sentence or None, `change` what to set."""
    return compute(config, engine_facts()["NCPU"], engine_facts()["MemTotal"] // limits.MIB)


def compute(config: Config, cpus: int, memory: int) -> dict[str, Any]:
    services = {name: one.replicas * one.memory // limits.MIB for name, one in config.services.items()}
    total, postgres = sum(services.values()), config.services["postgres"]
    share = config.services["app-1"].cpus or cpus / limits.SLOTS
    worker_memory = config.worker_memory or limits.WORKER_MEMORY
    connections = config.max_connections or limits.MAX_CONNECTIONS
    problem, sizes, (uploads, tmp) = None, None, of_uploads(config)
    around = limits.RESERVE + max(0, tmp - limits.TMP_SIZE)
    try:
        limits.check_uploads(uploads, tmp * limits.MIB)
        limit = services["app-1"] * limits.MIB or None
        given = (config.workers, worker_memory, config.pool_size, connections, share, limit)
        sizes = limits.sizes(*given, tmp_size=tmp)
    except ValueError as error:
        problem = str(error)
    percent = round(100 * total / memory)
    change = {} if percent in GOOD else recommend(services, memory, worker_memory, around)
    if total > memory:
        summed = " + ".join(f"{name} {limit}" for name, limit in services.items())
        todo = " and ".join(f"{name}={value}" for name, value in change.items())
        problem = (
            f"The memory limits don't fit into this machine: {summed} = {total} MiB, and it has {memory} MiB. "
            + (f"Set {todo}." if todo else f"Nor does less, with a worker of WORKER_MEMORY={worker_memory} MiB.")
        )
    return {
        "machine": {"cpus": cpus, "memory": memory},
        "limits": services,
        "limits_sum": total,
        "limits_percent": percent,
        "left": memory - total,
        "slot": {"cpus": share, "memory": services["app-1"], "worker_memory": worker_memory, "reserve": around}
        | (asdict(sizes) if sizes else {}),
        "connections": {"max": connections, "reserved": limits.RESERVED_CONNECTIONS}
        | ({"app": sizes.connections, "assumed": not config.pool_size} if sizes else {})
        | {"processes": {name: connections_of(config.services[name]) for name in config.processes}},
        "uploads": {"body_limit": uploads, "tmp": tmp},
        # Of the stack's own Postgres.
        "timeouts": {name: int(postgres.environment.get(name) or usual) for name, usual in TIMEOUTS.items()}
        if postgres.replicas
        else {},
        "problem": problem,
        "change": change,
    }


def of_uploads(config: Config) -> tuple[int, int]:
    """Bytes of the largest body, and MiB of /tmp, where it is kept."""
    tmp = limits.mib(config.tmp_size) if config.tmp_size else limits.TMP_SIZE
    return config.body_limit or limits.BODY_LIMIT, tmp


def scale(config: Config, cpus: int, replicas: int, surge: int) -> dict[str, Any]:
    """What so many replicas need of memory and of Postgres, and what a pooler between them changes."""
    slot, postgres = config.services["app-1"], config.services["postgres"]
    each, share = config.worker_memory or limits.WORKER_MEMORY, slot.cpus or cpus / limits.SLOTS
    try:
        # How many connections there are is the answer, and no bound here.
        sizes = limits.sizes(config.workers, each, config.pool_size, 10**9, share, slot.memory or None)
    except ValueError as error:
        raise Stop(str(error), 2) from None
    workers, pool, containers = sizes.workers, sizes.pool_size, replicas + surge
    processes = {name: connections_of(config.services[name]) for name in config.processes}
    app = containers * workers * pool
    # https://wiki.postgresql.org/wiki/Number_Of_Database_Connections: cores x 2, and the disks that seek.
    busy = 2 * math.ceil(postgres.cpus or cpus) + 1
    return {
        "replicas": replicas,
        "surge": surge,
        "workers": workers,
        "pool_size": pool,
        "assumed": not config.pool_size,
        "memory": {"each": slot.memory // limits.MIB, "sum": containers * slot.memory // limits.MIB},
        "connections": {"app": app, "processes": processes, "reserved": limits.RESERVED_CONNECTIONS},
        "max_connections": app + sum(processes.values()) + limits.RESERVED_CONNECTIONS,
        "pooler": {
            "max_client_conn": app + sum(processes.values()),
            "default_pool_size": busy,
            "max_connections": busy + limits.RESERVED_CONNECTIONS,
        },
    }


def scale_table(found: dict[str, Any]) -> str:
    memory, connections, pooler = found["memory"], found["connections"], found["pooler"]
    containers = found["replicas"] + found["surge"]
    assumed = ", SQLAlchemy's default: POOL_SIZE says what yours opens" if found["assumed"] else ""
    product = f"{containers} x {found['workers']} workers x {found['pool_size']}"
    return "\n".join(
        [
            f"Replicas: {found['replicas']}, and {found['surge']} more in a rollout",
            f"  memory: {containers} x {memory['each']} = {memory['sum']} MiB, without what else runs",
            "",
            f"Connections to Postgres: it must allow {found['max_connections']} (MAX_CONNECTIONS, max_connections)",
            f"  the app: {product} = {connections['app']}{assumed}",
            *(f"  {name}: {count}" for name, count in connections["processes"].items()),
            f"  kept for migrations, backups and you: {connections['reserved']}",
            "",
            f"With PgBouncer in transaction mode: Postgres must allow {pooler['max_connections']}",
            f"  max_client_conn={pooler['max_client_conn']}, for the connections above",
            f"  default_pool_size={pooler['default_pool_size']}: twice the CPUs of Postgres, and one",
            "  What the app then needs: docs/growing.md",
        ]
    )


def connections_of(process: Service) -> int:
    """What a process takes from Postgres: by its label, or as much as a worker of the app is taken to open."""
    return process.replicas * int(process.labels.get(CONNECTIONS, limits.POOL_SIZE))


def recommend(services: dict[str, int], memory: int, worker_memory: int, around: int) -> dict[str, str]:
    """APP_MEMORY and POSTGRES_MEMORY with which the machine is well used; empty when not even one worker would fit."""
    fixed = sum(limit for name, limit in services.items() if name not in ("app-1", "app-2", "postgres"))
    # None where DATABASE_URL names another.
    least = STEP if services["postgres"] else 0
    for workers in (2, 1):
        for of_all, of_postgres in SHARES:
            postgres = memory * of_postgres // 100 // STEP * least
            slot = (memory * of_all // 100 - fixed - postgres) // limits.SLOTS // STEP * STEP
            if postgres >= least and slot >= around + workers * worker_memory:
                return {"APP_MEMORY": f"{slot}m", **({"POSTGRES_MEMORY": f"{postgres}m"} if least else {})}
    return {}


def assumption(slot: dict[str, Any], connections: dict[str, Any]) -> list[str]:
    """What is not known of the app, and the setting that replaces it."""
    if not connections["assumed"]:
        return []
    default = limits.POOL_SIZE
    if slot["pool_size"] == default:
        return [f"    {default} a worker is SQLAlchemy's default, and an assumption: POOL_SIZE says what yours opens"]
    enough = limits.SLOTS * slot["workers"] * default + connections["reserved"]
    return [
        f"    SQLAlchemy's default is {default} a worker; for what Postgres refuses of that the app answers 503:",
        f"    MAX_CONNECTIONS={enough}, or give the app's pool {slot['pool_size']} and say so by POOL_SIZE",
    ]


def of_processes(connections: dict[str, Any], share: int) -> list[str]:
    """What the app's processes take, and what to set where that is too much."""
    found = connections["processes"]
    lines = [f"  {name}: {count}, by its label {CONNECTIONS} or as assumed" for name, count in found.items()]
    missing = connections["app"] + sum(found.values()) - share
    if found and missing > 0:
        lines.append(
            f"    That is {missing} too many: MAX_CONNECTIONS={connections['max'] + missing}, or smaller pools"
        )
    return lines


def plan_table(found: dict[str, Any]) -> str:
    machine, slot, connections, uploads = (found[name] for name in ("machine", "slot", "connections", "uploads"))
    lines = [f"This machine: {machine['cpus']} CPUs, {machine['memory']} MiB", "", "Memory limits, MiB"]
    lines += [f"  {name:<12}{limit or 'none':>8}" for name, limit in found["limits"].items()]
    lines += [
        f"  {'together':<12}{found['limits_sum']:>8}  {found['limits_percent']} % of the machine",
        f"  {'left':<12}{found['left']:>8}",
    ]
    if "workers" in slot:
        needed = slot["workers"] * slot["worker_memory"] + slot["reserve"]
        share = connections["max"] - connections["reserved"]
        lines += [
            "",
            f"Workers: {slot['workers']} in each of 2 slots, which has {slot['cpus']:g} CPUs",
            f"  {slot['workers']} x {slot['worker_memory']} MiB and {slot['reserve']} around them = {needed} "
            f"of {slot['memory']} MiB",
            f"  two uploads of BODY_LIMIT={uploads['body_limit']} bytes in /tmp, which has TMP_SIZE={uploads['tmp']}m",
            "",
            f"Connections to Postgres: {connections['max']}",
            f"  the app: 2 slots x {slot['workers']} workers x {slot['pool_size']} = {connections['app']} of {share}",
            *assumption(slot, connections),
            *of_processes(connections, share),
            f"  kept for migrations, backups and you: {connections['reserved']}",
        ]
        if found["timeouts"]:
            after = ", ".join(f"{name}={seconds}" for name, seconds in found["timeouts"].items())
            lines.append(f"  ended after seconds (0: never): {after}")
    if found["problem"]:
        lines += ["", found["problem"]]
    elif found["change"]:
        todo = "\n".join(f"  {name}={value}" for name, value in found["change"].items())
        room = (int(found["change"]["APP_MEMORY"][:-1]) - slot["reserve"]) // slot["workers"]
        lines += ["", f"To use {GOOD.start} to {GOOD.stop - 1} % of the machine, in .env:", todo]
        lines += [f"Each of {slot['workers']} workers may then need {room} MiB: WORKERS and WORKER_MEMORY."]
    return "\n".join(lines)
