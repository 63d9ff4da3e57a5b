"""Not null, expand: from now on for rows that are written; those that are there are not looked at."""

from alembic import op

revision: str = "05"
down_revision: str | None = "04"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    # Before Postgres 18: CHECK (full_name IS NOT NULL) NOT VALID, and SET NOT NULL once that is validated.
    op.execute("ALTER TABLE people ADD CONSTRAINT people_full_name_not_null NOT NULL full_name NOT VALID")


def downgrade() -> None:
    op.execute("ALTER TABLE people DROP CONSTRAINT people_full_name_not_null")
