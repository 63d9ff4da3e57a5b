"""Foreign key, contract: the rows that are there, read while others write."""

from alembic import op

revision: str = "10"
down_revision: str | None = "09"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.execute("ALTER TABLE people VALIDATE CONSTRAINT fk_people_city_id_cities")


def downgrade() -> None:
    pass
