from logging.config import fileConfig

from alembic import context
from shop.database import engine
from sqlmodel import SQLModel

if context.config.config_file_name:
    fileConfig(context.config.config_file_name)

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata)
    with context.begin_transaction():
        context.run_migrations()
