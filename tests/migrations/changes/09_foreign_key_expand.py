"""Foreign key, expand: from now on for rows that are written; those that are there are not looked at."""

from alembic import op

revision: str = "09"
down_revision: str | None = "08"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_foreign_key(
        "fk_people_city_id_cities", "people", "cities", ["city_id"], ["id"], postgresql_not_valid=True
    )


def downgrade() -> None:
    op.drop_constraint("fk_people_city_id_cities", "people", type_="foreignkey")
