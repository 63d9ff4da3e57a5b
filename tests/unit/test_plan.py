"""`./stack plan` and what `./stack up` refuses, for machines of every size."""

from typing import Any

import pytest
import yaml

from ops.config import Config
from ops.machine import plan
from ops.run import Stop
from runtime import limits
from tests import configs
from tests.configs import service
from tests.conftest import REPO


def config(app: int = 512, postgres: int = 768, cpus: float = 0, **sizes: Any) -> Config:
    """The default sizes but for these; memory in MiB."""
    memory = {"app-1": app, "app-2": app, "migrate": 256, "postgres": postgres, "traefik": 256}
    services = {name: service(name, mib, cpus) for name, mib in memory.items()}
    return configs.config(services=services, **sizes)


def test_figures_add_up() -> None:
    """The defaults on a machine that they fit well."""
    found = plan.compute(config(), cpus=2, memory=3900)
    assert (found["limits_sum"], found["left"], found["limits_percent"]) == (2304, 1596, 59)
    assert (found["slot"]["workers"], found["connections"]["app"]) == (2, 60)
    assert (found["problem"], found["change"]) == (None, {})
    assert "2 x 150 MiB and 80 around them = 380 of 512 MiB" in plan.plan_table(found)


def test_more_than_the_machine_is_refused() -> None:
    """The sum of all limits, a deploy's migration among them, with what to set: and that fits."""
    found = plan.compute(config(), cpus=2, memory=1950)
    assert found["problem"] == (
        "The memory limits don't fit into this machine: app-1 512 + app-2 512 + migrate 256 + postgres 768 + "
        "traefik 256 = 2304 MiB, and it has 1950 MiB. Set APP_MEMORY=384m and POSTGRES_MEMORY=448m."
    )
    assert found["problem"] in plan.plan_table(found)
    assert plan.compute(config(app=384, postgres=448), cpus=2, memory=1950)["problem"] is None


def test_machine_that_is_too_small() -> None:
    """Where no setting helps the sentence says so."""
    problem = plan.compute(config(), cpus=1, memory=900)["problem"]
    assert problem.endswith("and it has 900 MiB. Nor does less, with a worker of WORKER_MEMORY=150 MiB.")


def test_postgres_may_have_a_process_for_each_connection() -> None:
    """Of the pools of 64 CPUs too, beside what Postgres has of its own."""
    there = yaml.safe_load((REPO / "compose.yaml").read_text())["services"]["postgres"]
    found = plan.compute(config(app=8192, max_connections=2000), cpus=64, memory=64_000)
    assert found["problem"] is None
    assert there["pids_limit"] > found["connections"]["app"] + limits.RESERVED_CONNECTIONS + 2 * 64 > 900


def test_uploads_are_memory_of_the_slot() -> None:
    """Two of the largest are in `/tmp`, and what it has over 64 MiB is not the workers'."""
    small = plan.compute(config(body_limit=250_000_000), 2, 3900)
    assert small["problem"].startswith(
        "BODY_LIMIT=250000000 is wrong: /tmp, where uploads are kept, has 64 MiB. Set TMP_"
    )
    large = plan.compute(config(body_limit=250_000_000, tmp_size="600m", workers=2), 2, 3900)
    assert large["problem"].endswith(
        "2 x WORKER_MEMORY=150 MiB and 616 MiB around them (TMP_SIZE=600m) are 916 MiB, and APP_MEMORY is 512 MiB. "
        "Set APP_MEMORY=916m."
    )
    fits = plan.compute(config(app=916, body_limit=250_000_000, tmp_size="600m", workers=2), 2, 3900)
    assert fits["problem"] is None
    said = plan.plan_table(fits)
    assert "2 x 150 MiB and 616 around them = 916 of 916 MiB" in said
    assert "two uploads of BODY_LIMIT=250000000 bytes in /tmp, which has TMP_SIZE=600m" in said


def test_how_long_a_statement_may_take() -> None:
    """Is shown, of the stack's own Postgres."""
    own = config().services | {"postgres": service("postgres", 768, STATEMENT_TIMEOUT="7", LOCK_TIMEOUT="0")}
    said = plan.plan_table(plan.compute(configs.config(services=own), 2, 3900))
    assert "(0: never): STATEMENT_TIMEOUT=7, LOCK_TIMEOUT=0, IDLE_TRANSACTION_TIMEOUT=60" in said


@pytest.mark.parametrize("memory", [1900, 3900, 7900, 15900, 64000, 512000])
def test_what_it_says_to_change_uses_the_machine(memory: int) -> None:
    """50 to 90 % of any machine, with two workers or more, and nothing more to change after that."""
    change = plan.compute(config(app=64, postgres=64), cpus=8, memory=memory)["change"]
    app, postgres = (int(change[name].removesuffix("m")) for name in ("APP_MEMORY", "POSTGRES_MEMORY"))
    again = plan.compute(config(app, postgres), cpus=8, memory=memory)
    assert (again["problem"], again["change"]) == (None, {})
    assert 50 <= again["limits_percent"] <= 90
    assert again["slot"]["workers"] >= 2


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"workers": 4}, "Set WORKERS=2 or APP_MEMORY=680m."),
        ({"pool_size": 50}, "Set POOL_SIZE=20 or MAX_CONNECTIONS=220."),
    ],
)
def test_slot_and_pools_are_refused_too(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], sentence: str) -> None:
    """Before anything is built, with the sentence that the slot itself would end with."""
    monkeypatch.setattr(plan, "figures", lambda config: plan.compute(config, 2, 4000))
    with pytest.raises(Stop, match=sentence) as stop:
        plan.check_sizes(config(**sizes))
    assert stop.value.code == 2
    plan.check_sizes(config())


def test_the_machines_cpus_are_shared() -> None:
    """Without a CPU limit a slot has half of the machine's."""
    assert plan.compute(config(app=4096), cpus=16, memory=16000)["slot"]["workers"] == 8
    assert plan.compute(config(app=4096, cpus=2.5), cpus=16, memory=16000)["slot"]["workers"] == 3


def test_connections_that_are_assumed() -> None:
    """What is not known of the app's pool is said to be an assumption, and what to set where it doesn't fit."""
    roomy = config(app=512)
    assert "15 a worker is SQLAlchemy's default, and an assumption" in plan.plan_table(plan.compute(roomy, 2, 3900))
    tight = plan.plan_table(plan.compute(config(app=2000), cpus=16, memory=16000))
    assert "MAX_CONNECTIONS=260, or give the app's pool 5 and say so by POOL_SIZE" in tight
    known = plan.compute(config(pool_size=15), 2, 3900)
    assert "assumption" not in plan.plan_table(known)


def test_many_replicas() -> None:
    """What twelve and three in a rollout need, with and without a pooler; a replica itself starts with that."""
    found = plan.scale(config(workers=2, pool_size=15), 4, 12, 3)
    assert (found["memory"]["sum"], found["connections"]["app"], found["max_connections"]) == (7680, 450, 470)
    assert (found["pooler"]["default_pool_size"], found["pooler"]["max_connections"]) == (9, 29)
    table = plan.scale_table(found)
    assert "15 x 2 workers x 15 = 450\n" in table
    assert "POOL_SIZE" in plan.scale_table(plan.scale(config(), 4, 12, 3))
    assert limits.sizes(2, 150, 15, 470, 2, None, 12, 3).connections == 450


def test_replicas_that_would_not_start() -> None:
    """What each container refuses is no plan."""
    with pytest.raises(Stop, match="APP_MEMORY"):
        plan.scale(config(workers=8), 4, 12, 3)


def test_no_replicas() -> None:
    """Refused before anything is asked."""
    with pytest.raises(Stop, match="--replicas 0") as stop:
        plan.plan(False, 0, 1)
    assert stop.value.code == 2
