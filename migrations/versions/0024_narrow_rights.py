"""The logins of dispatchers and workers write the columns that these processes write, and no others."""

from alembic import op

revision = "0024"
down_revision = "0023"

# What a piece of work is: written once.
IDENTITY = """job_id, kind, start, stop, queue, tenant, pack_key, priority, rank, cost, suspect, losses, error,
    line_start, byte_start, byte_stop"""
# What becomes of it. A shard is cut by its `stop`.
LEASE = "state, token, owner, lease_until, isolated, run_after, error, attempts, losses, suspect, stop, cost"
OUTPUT = "job_id, index, item, seed, key, sha256, bytes, profile, error, revision"

NARROWED = f"""
REVOKE INSERT, UPDATE ON work, workers FROM darkroom_dispatcher, darkroom_worker;
REVOKE INSERT ON outputs FROM darkroom_dispatcher, darkroom_worker;
REVOKE INSERT, UPDATE ON turns FROM darkroom_dispatcher;
REVOKE UPDATE ON cancel_requests, change_requests, service_locks FROM darkroom_dispatcher;

GRANT INSERT ({IDENTITY}, deferred), UPDATE ({LEASE}, priority, rank, deferred) ON work
    TO darkroom_dispatcher;
GRANT INSERT ({IDENTITY}), UPDATE ({LEASE}, rank, deferred, clock) ON work TO darkroom_worker;
GRANT INSERT ({OUTPUT}) ON outputs TO darkroom_dispatcher;
GRANT INSERT ({OUTPUT}, evaluations, gpu_seconds) ON outputs TO darkroom_worker;
GRANT INSERT (id, kind, host, pid, queues), UPDATE (heartbeat_at, profile, stopped_at) ON workers
    TO darkroom_dispatcher, darkroom_worker;
GRANT INSERT (tenant, queue, priority, virtual_time, clock), UPDATE (virtual_time, deferred, clock) ON turns
    TO darkroom_dispatcher;
-- A row is locked by who may update any of its columns.
GRANT UPDATE (requested_at) ON cancel_requests TO darkroom_dispatcher;
GRANT UPDATE (due_at) ON change_requests TO darkroom_dispatcher;
GRANT UPDATE (name) ON service_locks TO darkroom_dispatcher;
INSERT INTO schema_revisions VALUES ('0024', '0005');
"""


def upgrade() -> None:
    op.execute(NARROWED)


def downgrade() -> None:
    op.execute("""
        GRANT INSERT, UPDATE ON work, workers TO darkroom_dispatcher, darkroom_worker;
        GRANT INSERT ON outputs TO darkroom_dispatcher, darkroom_worker;
        GRANT INSERT, UPDATE ON turns TO darkroom_dispatcher;
        GRANT UPDATE ON cancel_requests, change_requests, service_locks TO darkroom_dispatcher;
        DELETE FROM schema_revisions WHERE revision = '0024';
    """)
