"""Operators move aliases, see the load of queues and processes, and pause queues in the console."""

from alembic import op

revision = "0025"
down_revision = "0024"

# The console's role reads views of the registry and writes none of its tables. Who looks is known to the console alone,
# so that it gives the name; the login stands beside it.
MOVE_ALIAS = """
CREATE FUNCTION move_alias(release bigint, alias text, expected bigint, rollback boolean, viewer text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    target releases;
    present bigint;
BEGIN
    IF NOT is_operator() THEN
        RAISE 'alias: % can be moved by operators alone', move_alias.alias USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM FROM service_locks WHERE name = 'promotion' FOR UPDATE;
    SELECT * INTO STRICT target FROM releases WHERE id = move_alias.release;
    IF target.retired_at IS NOT NULL THEN
        RAISE 'alias: %@% was retired', target.name, target.version
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Promote another version';
    END IF;
    SELECT release_id INTO present FROM aliases WHERE aliases.name = target.name AND aliases.alias = move_alias.alias;
    IF present IS DISTINCT FROM move_alias.expected THEN
        RAISE 'alias: %@% was moved meanwhile', target.name, move_alias.alias
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Look at the release again';
    END IF;
    IF present = target.id THEN
        RETURN;
    END IF;
    INSERT INTO aliases (name, alias, release_id) VALUES (target.name, move_alias.alias, target.id)
    ON CONFLICT ON CONSTRAINT aliases_pkey DO UPDATE SET release_id = excluded.release_id;
    INSERT INTO promotions (name, alias, from_release, to_release, promoted_by, rollback)
    VALUES (target.name, move_alias.alias, present, target.id, format('%s by %s', move_alias.viewer, session_user),
            move_alias.rollback);
END $$;
"""

QUEUES = """
CREATE VIEW visible_queue_loads WITH (security_barrier = true) AS
SELECT queues.name, queues.paused, coalesce(waiting, 0) AS waiting, coalesce(waiting_images, 0) AS waiting_images,
    coalesce(leased, 0) AS leased, coalesce(open.tenants, 0) AS tenants, jobs.created_at AS oldest
FROM queues LEFT JOIN (
    SELECT queue, count(*) FILTER (WHERE state <> 'leased') AS waiting,
        sum(stop - start) FILTER (WHERE state <> 'leased') AS waiting_images,
        count(*) FILTER (WHERE state = 'leased') AS leased, count(DISTINCT tenant) AS tenants,
        min(job_id::text) AS first_job  -- ids are in the order of submission
    FROM work WHERE state IN ('ready', 'delayed', 'leased') GROUP BY queue
) AS open ON open.queue = queues.name LEFT JOIN jobs ON jobs.id = open.first_job::uuid
WHERE is_operator();

CREATE VIEW visible_leases WITH (security_barrier = true) AS
SELECT owner, count(*) AS leases, sum(stop - start) AS images FROM work WHERE state = 'leased' AND is_operator()
GROUP BY owner;

CREATE FUNCTION set_queue_paused(queue text, paused boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NOT is_operator() THEN
        RAISE 'queue: % can be paused by operators alone', queue USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE queues SET paused = set_queue_paused.paused WHERE name = set_queue_paused.queue;
    IF NOT FOUND THEN
        RAISE 'queue: there is no queue %', queue USING ERRCODE = 'no_data_found';
    END IF;
    PERFORM announce('darkroom_work', '');
END $$;
"""

RIGHTS = """
REVOKE ALL ON FUNCTION move_alias(bigint, text, bigint, boolean, text), set_queue_paused(text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION move_alias(bigint, text, bigint, boolean, text), set_queue_paused(text, boolean)
    TO darkroom_console;
GRANT SELECT ON visible_queue_loads, visible_leases TO darkroom_console;
INSERT INTO schema_revisions VALUES ('0025', '0005');
"""


def upgrade() -> None:
    for part in (MOVE_ALIAS, QUEUES, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP VIEW visible_queue_loads, visible_leases;
        DROP FUNCTION move_alias(bigint, text, bigint, boolean, text), set_queue_paused(text, boolean);
        DELETE FROM schema_revisions WHERE revision = '0025';
    """)
