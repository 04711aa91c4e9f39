"""Runs the migrations on the connection that `services.database.schema` passes in. Alembic executes this file."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
