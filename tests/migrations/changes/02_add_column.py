"""Add a column: nullable, or with a default that is a constant. Postgres rewrites nothing for either."""

import sqlalchemy as sa
from alembic import op

revision: str = "02"
down_revision: str | None = "01"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.add_column("people", sa.Column("email", sa.Text(), nullable=True))
    op.add_column("people", sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False))


def downgrade() -> None:
    op.drop_column("people", "active")
    op.drop_column("people", "email")
