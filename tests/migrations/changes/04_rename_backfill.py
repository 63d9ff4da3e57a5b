"""Rename, backfill: the rows from before the trigger, a thousand at a time, each lot committed at once.

Outside a transaction, so that no row stays locked until the last one is done. By the key, so that the last lot costs
what the first did. A second run is safe."""

from alembic import op

revision: str = "04"
down_revision: str | None = "03"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # It may take hours; what it waits for a row is still bounded by lock_timeout.
        op.execute("SET statement_timeout = 0")
        op.execute(
            """
            DO $$
            DECLARE
                done bigint := 0;
                last bigint;
            BEGIN
                LOOP
                    WITH lot AS (
                        SELECT id FROM people WHERE id > done ORDER BY id LIMIT 1000
                    ), changed AS (
                        UPDATE people SET full_name = name FROM lot WHERE people.id = lot.id AND full_name IS NULL
                    )
                    SELECT max(id) INTO last FROM lot;
                    EXIT WHEN last IS NULL;
                    done := last;
                    COMMIT;
                END LOOP;
            END
            $$
            """
        )
        op.execute("RESET statement_timeout")


def downgrade() -> None:
    pass
