"""What a throwaway project may take with it when it is removed."""

from typing import Any

import pytest

from ops.machine.throwaway import refuse_others_volumes
from ops.run import Stop


@pytest.mark.parametrize(
    "volume", [{"name": "shop_postgres-20261122031546"}, {"name": "shop-x_data", "external": True}]
)
def test_a_volume_of_somebody_elses(volume: dict[str, Any]) -> None:
    """One of another project, or from outside, is refused before anything starts: `down --volumes` would remove it."""
    own = {"name": "shop-x_backup"}
    refuse_others_volumes({"volumes": {"backup": own}}, "shop-x")
    with pytest.raises(Stop, match=f"{volume['name']} is not of the throwaway project"):
        refuse_others_volumes({"volumes": {"backup": own, "postgres-data": volume}}, "shop-x")
