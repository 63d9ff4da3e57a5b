"""Not null, contract: the rows that are there, read while others write. A revision of its own: nothing stays locked."""

from alembic import op

revision: str = "06"
down_revision: str | None = "05"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.execute("ALTER TABLE people VALIDATE CONSTRAINT people_full_name_not_null")


def downgrade() -> None:
    pass
