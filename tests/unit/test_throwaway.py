"""What a throwaway project may take with it when it is removed."""

import json
from typing import Any

import pytest

from ops.machine.throwaway import refuse_others_volumes, throwaway
from ops.run import Stop
from tests.configs import config


@pytest.mark.parametrize(
    "volume", [{"name": "shop_postgres-20261122031546"}, {"name": "shop-x_data", "external": True}]
)
def test_a_volume_of_somebody_elses(volume: dict[str, Any]) -> None:
    """One of another project, or from outside, is refused before anything starts: `down --volumes` would remove it."""
    own = {"name": "shop-x_backup"}
    refuse_others_volumes({"volumes": {"backup": own}}, "shop-x")
    with pytest.raises(Stop, match=f"{volume['name']} is not of the throwaway project"):
        refuse_others_volumes({"volumes": {"backup": own, "postgres-data": volume}}, "shop-x")


@pytest.mark.docker
@pytest.mark.parametrize("purpose", ["test", "migration"])
def test_name_is_nobodys(purpose: str) -> None:
    """A second stack may be called shop-test: `shop` must not remove it."""
    with throwaway(config(), purpose) as own:
        assert json.loads(own("config", "--format", "json").stdout)["name"] == f"shop-throwaway-{purpose}"
