import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine, pool

# Models are part of the metadata once their module is imported.
import app.main  # noqa: F401
from app.database import Base

if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

url = os.environ.get("DATABASE_URL", "postgresql://localhost/app")


def run_migrations_offline() -> None:
    context.configure(url=url, target_metadata=Base.metadata, literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        # Each revision whole or not at all, and those before it stay.
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
