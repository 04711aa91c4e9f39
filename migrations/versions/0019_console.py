"""The console's role reads and acts for the tenant that its transaction names, and sees no other."""

from alembic import op

revision = "0019"
down_revision = "0018"

# The role has a client's rights, and row-level security gives it the tenant of the setting `darkroom.tenant`. Without
# the setting it has no tenant and sees nothing. The setting has no effect for logins of other roles.
ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'darkroom_console') THEN
        CREATE ROLE darkroom_console NOLOGIN;
    END IF;
    IF NOT pg_has_role('darkroom_console', 'darkroom_submitter', 'MEMBER') THEN
        GRANT darkroom_submitter TO darkroom_console;
    END IF;
END $$;
"""

TENANT = """
CREATE OR REPLACE FUNCTION current_tenant() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(
        (SELECT name FROM tenants WHERE login = session_user),
        (SELECT 'default' FROM pg_tables
         WHERE schemaname = 'public' AND tablename = 'jobs' AND pg_has_role(session_user, tableowner, 'MEMBER')),
        (SELECT name FROM tenants WHERE name = current_setting('darkroom.tenant', true)
            AND pg_has_role(session_user, 'darkroom_console', 'MEMBER')))
$$;
"""

# A viewer who operates the service sees its processes and all queues and releases, and jobs of the own tenant alone.
VIEWS = """
CREATE FUNCTION is_operator() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('darkroom.operator', true) = 'on'
$$;

CREATE VIEW visible_queues WITH (security_barrier = true) AS
SELECT queues.name, queues.paused FROM queues, tenants
WHERE tenants.name = current_tenant() AND (is_operator() OR permitted_queues && ARRAY[queues.name, '*']);

CREATE VIEW visible_releases WITH (security_barrier = true) AS
SELECT releases.id, releases.name, version, kind, digest, manifest, created_at, origin, published_by, retired_at,
    retired_by
FROM releases, tenants
WHERE tenants.name = current_tenant() AND (is_operator() OR permitted_releases && ARRAY[releases.name, '*']);

CREATE VIEW visible_aliases WITH (security_barrier = true) AS
SELECT name, alias, release_id FROM aliases WHERE release_id IN (SELECT id FROM visible_releases);

CREATE VIEW visible_evaluations WITH (security_barrier = true) AS
SELECT id, release_id, fingerprint, metrics, created_at FROM evaluations
WHERE release_id IN (SELECT id FROM visible_releases);

CREATE VIEW visible_promotions WITH (security_barrier = true) AS
SELECT id, name, alias, from_release, to_release, promoted_by, promoted_at, rollback FROM promotions
 WHERE to_release IN (SELECT id FROM visible_releases);

CREATE VIEW visible_processes WITH (security_barrier = true) AS
SELECT id, kind, host, pid, profile, queues, started_at, heartbeat_at, stopped_at FROM workers WHERE is_operator();
"""

RIGHTS = """
GRANT USAGE ON SCHEMA public TO darkroom_console;
GRANT SELECT ON visible_queues, visible_releases, visible_aliases, visible_evaluations, visible_promotions,
    visible_processes TO darkroom_console;
INSERT INTO schema_revisions VALUES ('0019', '0005');
"""


def upgrade() -> None:
    for part in (ROLE, TENANT, VIEWS, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP VIEW visible_processes, visible_promotions, visible_evaluations, visible_aliases, visible_releases,
            visible_queues;
        DROP FUNCTION is_operator();
        CREATE OR REPLACE FUNCTION current_tenant() RETURNS text
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
            SELECT coalesce(
                (SELECT name FROM tenants WHERE login = session_user),
                (SELECT 'default' FROM pg_tables
                 WHERE schemaname = 'public' AND tablename = 'jobs'
                     AND pg_has_role(session_user, tableowner, 'MEMBER')))
        $$;
        REVOKE USAGE ON SCHEMA public FROM darkroom_console;
        REVOKE darkroom_submitter FROM darkroom_console;
        DELETE FROM schema_revisions WHERE revision = '0019';
    """)
