import sqlalchemy as sa
from alembic import op

revision = "1a2b3c4d5e6f"
down_revision = None


def upgrade() -> None:
    op.create_table("thing", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("name", sa.String()))


def downgrade() -> None:
    op.drop_table("thing")
