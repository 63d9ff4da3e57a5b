"""Rename, expand: the new column beside the old one; a trigger gives each what is written to the other.

The release that comes with it uses full_name alone; the one before it, still serving, uses name alone."""

import sqlalchemy as sa
from alembic import op

revision: str = "03"
down_revision: str | None = "02"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.add_column("people", sa.Column("full_name", sa.Text(), nullable=True))
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


def downgrade() -> None:
    op.execute("DROP TRIGGER people_names ON people")
    op.execute("DROP FUNCTION people_names()")
    op.drop_column("people", "full_name")
