"""Rename, contract: in a later deploy than the expansion, when no release that uses name will serve again."""

from alembic import op

revision: str = "07"
down_revision: str | None = "06"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.execute("DROP TRIGGER people_names ON people")
    # What the linter refuses because it may break a client; here no client is left.
    op.execute("-- squawk-ignore ban-drop-function\nDROP FUNCTION people_names()")
    op.execute("-- squawk-ignore ban-drop-column\nALTER TABLE people DROP COLUMN name")


def downgrade() -> None:
    op.execute("ALTER TABLE people ADD COLUMN name text")
    op.execute("UPDATE people SET name = full_name")
    op.execute("ALTER TABLE people ALTER COLUMN name SET NOT NULL")
    op.execute(
        """
        CREATE FUNCTION people_names() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' AND NEW.full_name IS NOT DISTINCT FROM OLD.full_name THEN
                NEW.full_name := NEW.name;
            ELSE
                NEW.full_name := coalesce(NEW.full_name, NEW.name);
                NEW.name := NEW.full_name;
            END IF;
            RETURN NEW;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER people_names BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION people_names()"
    )
