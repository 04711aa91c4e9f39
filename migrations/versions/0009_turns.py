"""Turns of each tenant in each queue: priority orders a tenant's own work, and weights decide between tenants."""

from alembic import op

from migrations.locks import lock_tables

revision = "0009"
down_revision = "0008"

# Waiting shards keep their ranks. The first turns of a tenant with open jobs begin where its old ones end.
TABLES = """
ALTER TABLE work
    ADD COLUMN deferred double precision,  -- how much of turns.deferred is in its rank; NULL: all of it
    ADD COLUMN clock    double precision;  -- the queue's virtual time when it was claimed

CREATE TABLE turns (
    tenant       text             NOT NULL REFERENCES tenants ON DELETE CASCADE,
    queue        text             NOT NULL,
    priority     smallint         NOT NULL,
    virtual_time double precision NOT NULL DEFAULT 0,  -- when the work that is planned would be finished
    deferred     double precision NOT NULL DEFAULT 0,  -- work of higher priorities that was put before it
    clock        double precision NOT NULL DEFAULT 0,  -- the queue's virtual time when its last work was planned
    PRIMARY KEY (tenant, queue, priority)
);
INSERT INTO turns (tenant, queue, priority, virtual_time)
    SELECT DISTINCT tenants.name, jobs.queue, 100, tenants.virtual_time
    FROM jobs JOIN tenants ON tenants.name = jobs.tenant WHERE finished_at IS NULL;
"""

# Start-time fair queueing (Goyal et al. 1996), in each queue: a shard's rank is the virtual time at which its tenant's
# earlier work would be finished if the tenant had always had its share. A tenant that was idle starts at what is
# being served now, so it has saved nothing up.
FUNCTIONS = """
-- The virtual time of a queue: of what is claimed, or else of what comes next. It never goes back.
CREATE FUNCTION queue_clock(name text) RETURNS double precision
LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT greatest(
        (SELECT max(clock) FROM turns WHERE queue = name),
        coalesce(
            (SELECT max(coalesce(clock, rank)) FROM work WHERE state = 'leased' AND kind = 'sample' AND queue = name),
            (SELECT rank + head_start FROM work JOIN tenants ON tenants.name = work.tenant
             WHERE queue = queue_clock.name AND state = 'ready' AND kind = 'sample' ORDER BY rank LIMIT 1),
            (SELECT max(virtual_time) FROM turns WHERE queue = name),
            0))
$$;

-- Takes the next turns of a job's tenant, for work of `cost` network evaluations: rank, where they begin.
-- The tenant's work of lower priority moves back by as much, when its own turn comes: see PUSH_BACK in claims.py.
CREATE FUNCTION take_turns(job uuid, cost double precision)
RETURNS TABLE (tenant text, queue text, priority smallint, rank double precision, deferred double precision,
               weight double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    present record;
    served  double precision;  -- the queue's clock
    start   double precision;
BEGIN
    SELECT jobs.tenant, jobs.queue, jobs.priority, tenants.weight, tenants.head_start INTO STRICT present
    FROM jobs JOIN tenants ON tenants.name = jobs.tenant WHERE jobs.id = job;
    -- The lowest priority's row is there for a lock: a tenant's turns in a queue are taken one after the other.
    INSERT INTO turns (tenant, queue, priority) VALUES (present.tenant, present.queue, -100) ON CONFLICT DO NOTHING;
    PERFORM FROM turns WHERE (tenant, queue, priority) = (present.tenant, present.queue, -100) FOR NO KEY UPDATE;
    served := queue_clock(present.queue);
    SELECT greatest(served, max(virtual_time)) INTO start FROM turns
    WHERE tenant = present.tenant AND queue = present.queue AND priority >= present.priority;
    UPDATE turns SET virtual_time = virtual_time + cost / present.weight, deferred = deferred + cost / present.weight
    WHERE tenant = present.tenant AND queue = present.queue AND priority < present.priority;
    RETURN QUERY
        INSERT INTO turns AS own (tenant, queue, priority, virtual_time, clock)
        VALUES (present.tenant, present.queue, present.priority, start + cost / present.weight, served)
        ON CONFLICT (tenant, queue, priority)
            DO UPDATE SET virtual_time = excluded.virtual_time, clock = excluded.clock
        RETURNING own.tenant, own.queue, own.priority, start - present.head_start, own.deferred, present.weight;
END $$;
"""

GRANTS = """
REVOKE ALL ON FUNCTION queue_clock(text), take_turns(uuid, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue_clock(text), take_turns(uuid, double precision) TO darkroom_dispatcher;
GRANT SELECT, INSERT, UPDATE ON turns TO darkroom_dispatcher;
GRANT SELECT ON turns TO darkroom_worker;
INSERT INTO schema_revisions VALUES ('0009', '0005');
"""


def upgrade() -> None:
    lock_tables("work", "tenants")
    for part in (TABLES, FUNCTIONS, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        UPDATE tenants SET virtual_time = taken.virtual_time
            FROM (SELECT tenant, max(virtual_time) AS virtual_time FROM turns GROUP BY tenant) AS taken
            WHERE taken.tenant = name;
        DROP FUNCTION take_turns(uuid, double precision), queue_clock(text);
        DROP TABLE turns;
        ALTER TABLE work DROP COLUMN deferred, DROP COLUMN clock;
        DELETE FROM schema_revisions WHERE revision = '0009';
    """)
