"""Runs the migrations on the connection that `services.database.upgrade` hands in."""

from alembic import context

from migrations.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
