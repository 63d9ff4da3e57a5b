"""Index: built while others write, outside a transaction, alone in its revision."""

from alembic import op

revision: str = "08"
down_revision: str | None = "07"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # It waits for the transactions that are open, hours maybe, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        # What an interrupted try left: an index that is invalid, and goes by this name.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_people_city_id")
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_people_city_id ON people (city_id)")
        op.execute("RESET lock_timeout")
        op.execute("RESET statement_timeout")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_people_city_id")
