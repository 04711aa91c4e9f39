"""Ended jobs are told to addresses that an administrator permits for their tenant."""

from alembic import op

from migrations.locks import lock_tables

revision = "0027"
down_revision = "0026"

# secret: signs what is sent. may_be_private: whether the address may be one of a private network.
TABLES = """
CREATE TABLE webhooks (
    tenant         text        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    url            text        NOT NULL CHECK (length(url) BETWEEN 1 AND 1000),
    secret         text        NOT NULL,
    may_be_private boolean     NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, url)
);

-- The outbox: an event is there if and only if its job has ended.
CREATE TABLE webhook_events (
    id           uuid        PRIMARY KEY DEFAULT uuidv7(),
    tenant       text        NOT NULL,
    url          text        NOT NULL,
    job_id       uuid        NOT NULL,
    data         jsonb       NOT NULL,
    state        text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    attempts     integer     NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL DEFAULT now(),
    error        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz
);
CREATE INDEX webhook_events_due ON webhook_events (tenant, due_at) WHERE state = 'waiting';
CREATE INDEX webhook_events_by_tenant ON webhook_events (tenant, id);
ALTER TABLE webhook_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_events ON webhook_events FOR SELECT TO darkroom_submitter USING (tenant = (SELECT current_tenant()));
CREATE POLICY every_event ON webhook_events TO darkroom_dispatcher USING (true) WITH CHECK (true);
"""

TELLING = """
CREATE FUNCTION tell_webhooks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO webhook_events (tenant, url, job_id, data)
    SELECT tenant, url, NEW.id, jsonb_build_object('job', NEW.id, 'model', NEW.model, 'state', NEW.state,
        'reason', NEW.reason, 'revision', NEW.revision, 'total', NEW.total, 'succeeded', NEW.succeeded,
        'failed', NEW.failed, 'manifest_key', NEW.manifest_key, 'tags', NEW.tags)
    FROM webhooks WHERE tenant = NEW.tenant;
    RETURN NULL;
END $$;
CREATE TRIGGER tell_webhooks AFTER UPDATE OF finished_at ON jobs FOR EACH ROW
    WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION tell_webhooks();
"""

GRANTS = """
REVOKE ALL ON FUNCTION tell_webhooks() FROM PUBLIC;
GRANT SELECT ON webhook_events TO darkroom_submitter;
GRANT SELECT ON webhooks TO darkroom_dispatcher;
GRANT SELECT, DELETE, UPDATE (state, attempts, due_at, error, delivered_at) ON webhook_events TO darkroom_dispatcher;
INSERT INTO schema_revisions VALUES ('0027', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs", "tenants")
    for part in (TABLES, TELLING, GRANTS):
        op.execute(part)


def downgrade() -> None:
    lock_tables("jobs", "tenants")
    op.execute("""
        DROP TRIGGER tell_webhooks ON jobs;
        DROP FUNCTION tell_webhooks();
        DROP TABLE webhook_events, webhooks;
        DELETE FROM schema_revisions WHERE revision = '0027';
    """)
