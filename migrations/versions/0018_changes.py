"""A tenant changes its job after submission: priority, deadline, tags, pause and resume."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0018"
down_revision = "0017"

JOBS = """
ALTER TABLE jobs ADD COLUMN paused boolean NOT NULL DEFAULT false;

-- A change is a row of its own, as a request to cancel is: an UPDATE of the job would lock the job until the client's
-- transaction ends. due_at: when a dispatcher looks at it again, after work that is under way was in its way.
CREATE TABLE change_requests (
    job_id       uuid        PRIMARY KEY,
    changes      jsonb       NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    due_at       timestamptz NOT NULL DEFAULT now()
);
"""

# -- what a client calls -----------------------------------------------------------------------

CHECKS = """
-- Returns the changes as `apply_change` reads them, or raises with the field, its value and what is permitted.
CREATE FUNCTION checked_changes(changes jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    known CONSTANT text[] := '{deadline, paused, priority, tags}';
    field text;
    value jsonb;
    permitted text;
    deadline timestamptz;
BEGIN
    IF jsonb_typeof(changes) IS DISTINCT FROM 'object' OR changes = '{}' THEN
        RAISE EXCEPTION 'changes: % is not allowed; permitted: a JSON object with one or more of %',
            left(coalesce(changes::text, 'NULL'), 100), array_to_string(known, ', ')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR field, value IN SELECT * FROM jsonb_each(changes) LOOP
        permitted := NULL;
        CASE field
        WHEN 'priority' THEN
            IF jsonb_typeof(value) <> 'number' OR (value #>> '{}')::numeric NOT BETWEEN -100 AND 100
                OR (value #>> '{}')::numeric % 1 <> 0 THEN
                permitted := 'an integer from -100 to 100';
            END IF;
        WHEN 'paused' THEN
            IF jsonb_typeof(value) <> 'boolean' THEN
                permitted := 'true or false';
            END IF;
        WHEN 'tags' THEN
            changes := jsonb_set(changes, '{tags}', to_jsonb(given_tags(value)));
        WHEN 'deadline' THEN
            BEGIN
                deadline := CASE jsonb_typeof(value) WHEN 'null' THEN '2100-01-01 00:00Z'
                    WHEN 'string' THEN (value #>> '{}')::timestamptz END;
            EXCEPTION WHEN data_exception THEN
                deadline := NULL;
            END;
            IF deadline BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z' THEN
                IF jsonb_typeof(value) = 'string' THEN
                    changes := jsonb_set(changes, '{deadline}', to_jsonb(deadline));
                END IF;
            ELSE
                permitted := 'a time from 2000-01-01 to 9998-12-31, or null for none';
            END IF;
        ELSE
            RAISE EXCEPTION 'changes: % is not a known field', field
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Permitted: ' || array_to_string(known, ', ');
        END CASE;
        IF permitted IS NOT NULL THEN
            RAISE EXCEPTION '%: % is not allowed; permitted: %', field, left(value::text, 100), permitted
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    RETURN changes;
END $$;
"""

CHANGING = """
-- Asks that a job is changed, and returns its state. Of a job that has ended only the tags will change.
CREATE FUNCTION change_job(job uuid, changes jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    asked   CONSTANT jsonb := checked_changes(changes);
    present record;
BEGIN
    SELECT state, run_after INTO present FROM jobs WHERE id = job AND tenant = current_tenant();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job: you have no job %', job USING ERRCODE = 'no_data_found';
    END IF;
    IF (asked ->> 'deadline')::timestamptz <= present.run_after THEN
        RAISE EXCEPTION 'deadline: % is not allowed for job %; permitted: a time after its run_after, %',
            asked ->> 'deadline', job, present.run_after USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO change_requests AS earlier (job_id, changes) VALUES (job, asked)
    ON CONFLICT (job_id) DO UPDATE SET changes = earlier.changes || asked, due_at = now();
    PERFORM announce('darkroom_work', '');
    RETURN present.state;
END $$;
"""

# -- what a dispatcher calls -------------------------------------------------------------------

# Waiting work of a paused job is delayed for ever, so no claim reads it. Its turns are given back as those of
# cancelled work are, and taken anew when the job resumes: nobody saves turns up with a pause.
APPLYING = """
-- Applies a request, and moves up to `most` pieces of the job's waiting work. Returns 'done', or 'more' if there is
-- more to move, or 'waiting' if the job is locked, or is to pause and has work under way, which may become ready again.
CREATE FUNCTION apply_change(job uuid, most integer) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    asked   jsonb;
    present record;
    moving  bigint[];
    sampled numeric;  -- cost of the shards among them
    turn    record;
BEGIN
    SELECT changes INTO asked FROM change_requests WHERE job_id = job FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 'done';
    END IF;
    SELECT * INTO present FROM jobs WHERE id = job FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        DELETE FROM change_requests WHERE job_id = job AND NOT EXISTS (SELECT FROM jobs WHERE id = job);
        UPDATE change_requests SET due_at = now() + interval '1 second' WHERE job_id = job;
        RETURN CASE WHEN FOUND THEN 'waiting' ELSE 'done' END;
    END IF;
    IF present.finished_at IS NOT NULL THEN
        asked := asked - '{deadline, paused, priority}'::text[];
    END IF;
    UPDATE jobs SET priority = coalesce((asked ->> 'priority')::numeric, priority),
        paused = coalesce((asked ->> 'paused')::boolean, paused),
        deadline = CASE WHEN asked ? 'deadline' THEN (asked ->> 'deadline')::timestamptz ELSE deadline END,
        tags = CASE WHEN asked ? 'tags' THEN ARRAY(SELECT jsonb_array_elements_text(asked -> 'tags')) ELSE tags END
    WHERE id = job RETURNING id, tenant, queue, priority, paused, run_after, finished_at INTO present;
    SELECT array_agg(id ORDER BY start), sum(cost) FILTER (WHERE kind = 'sample') INTO moving, sampled FROM (
        SELECT id, start, cost, kind FROM work
        WHERE job_id = job AND kind <> 'finalize' AND state IN ('ready', 'delayed')
            AND (coalesce(run_after = 'infinity', false) <> present.paused OR priority <> present.priority)
        ORDER BY start LIMIT most FOR UPDATE SKIP LOCKED
    ) AS waiting;
    IF present.finished_at IS NULL AND moving IS NOT NULL THEN
        IF present.paused THEN
            PERFORM return_turns(present.tenant, present.queue, moving);
            UPDATE work SET state = 'delayed', run_after = 'infinity', priority = present.priority,
                rank = rank + CASE WHEN kind = 'plan' THEN 60 * (priority - present.priority) ELSE 0 END
            WHERE id = ANY (moving);
        ELSE
            UPDATE work SET priority = present.priority, rank = rank + 60 * (priority - present.priority),
                state = CASE WHEN run_after <> 'infinity' OR present.run_after > now() THEN 'delayed' ELSE 'ready' END,
                run_after = CASE WHEN run_after = 'infinity' AND present.run_after > now() THEN present.run_after
                    WHEN run_after <> 'infinity' THEN run_after END
            WHERE id = ANY (moving) AND kind = 'plan';
            IF sampled > 0 THEN
                -- In this order, so that the new turns come after what waits, with the old ones among it.
                SELECT * INTO turn FROM take_turns(job, sampled::double precision);
                PERFORM return_turns(present.tenant, present.queue, moving);
                SELECT turns.deferred INTO turn.deferred FROM turns
                WHERE (tenant, queue, priority) = (turn.tenant, turn.queue, turn.priority);
                UPDATE work SET priority = turn.priority, deferred = turn.deferred,
                    rank = turn.rank + before / turn.weight,
                    state = CASE WHEN run_after <> 'infinity' THEN 'delayed' ELSE 'ready' END,
                    run_after = CASE WHEN run_after <> 'infinity' THEN run_after END
                FROM (SELECT id, (sum(cost) OVER (ORDER BY start) - cost)::double precision AS before
                      FROM work WHERE id = ANY (moving) AND kind = 'sample') AS placed
                WHERE work.id = placed.id;
                PERFORM announce('darkroom_shards', present.queue);
            END IF;
        END IF;
        IF cardinality(moving) = most THEN
            RETURN 'more';
        END IF;
    END IF;
    IF present.finished_at IS NULL AND present.paused AND EXISTS (
        SELECT FROM work WHERE job_id = job AND state = 'leased' AND kind <> 'finalize') THEN
        UPDATE change_requests SET due_at = now() + interval '1 second' WHERE job_id = job;
        RETURN 'waiting';
    END IF;
    DELETE FROM change_requests WHERE job_id = job;
    RETURN 'done';
END $$;

-- Gives the turns of waiting shards back to their tenant: what waits behind them has its turn that much earlier.
CREATE FUNCTION return_turns(of_tenant text, of_queue text, shards bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    -- In the order of `take_turns`: another order could end in a deadlock.
    PERFORM FROM turns WHERE (tenant, queue) = (of_tenant, of_queue) ORDER BY priority FOR NO KEY UPDATE;
    UPDATE turns SET virtual_time = turns.virtual_time - own_and_higher / weight,
        deferred = turns.deferred - higher / weight
    FROM tenants, (
        SELECT turns.priority, sum(cost)::double precision AS own_and_higher,
            coalesce(sum(cost) FILTER (WHERE work.priority > turns.priority), 0)::double precision AS higher
        FROM turns JOIN work ON work.priority >= turns.priority
        WHERE (turns.tenant, turns.queue) = (of_tenant, of_queue) AND work.id = ANY (shards) AND kind = 'sample'
            AND run_after IS DISTINCT FROM 'infinity'
        GROUP BY turns.priority
    ) AS refund
    WHERE tenants.name = of_tenant
        AND (turns.tenant, turns.queue, turns.priority) = (of_tenant, of_queue, refund.priority);
END $$;
"""

# -- what reads a job's row --------------------------------------------------------------------

# Alerts are about jobs that wait although they could start.
OPEN_JOBS = """
CREATE OR REPLACE VIEW open_jobs AS
    SELECT queue, tenant, state, count(*) AS jobs,
        min(greatest(created_at, run_after))
            FILTER (WHERE isfinite(greatest(created_at, run_after)){and_not_paused}) AS since
    FROM jobs WHERE finished_at IS NULL
    GROUP BY queue, tenant, state;
"""


RETRY_JOB = import_module("migrations.versions.0007_isolation").CANCELLING
WHY_WAITING = import_module("migrations.versions.0016_progress").WAITING

GRANTS = """
REVOKE ALL ON FUNCTION checked_changes(jsonb), change_job(uuid, jsonb), apply_change(uuid, integer),
    return_turns(text, text, bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION change_job(uuid, jsonb) TO darkroom_submitter;
GRANT EXECUTE ON FUNCTION apply_change(uuid, integer), return_turns(text, text, bigint[]), announce(text, text)
    TO darkroom_dispatcher;
GRANT SELECT, UPDATE, DELETE ON change_requests TO darkroom_dispatcher;
GRANT UPDATE (priority, deadline, paused, tags) ON jobs TO darkroom_dispatcher;
INSERT INTO schema_revisions VALUES ('0018', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs")
    for part in (JOBS, CHECKS, CHANGING, APPLYING, OPEN_JOBS.format(and_not_paused=" AND NOT paused")):
        op.execute(part)
    redefine(
        "retry_job",
        RETRY_JOB,
        (
            "DELETE FROM cancel_requests WHERE job_id = job;",
            "DELETE FROM cancel_requests WHERE job_id = job;\n"
            "    UPDATE change_requests SET changes = changes - '{deadline, paused, priority}'::text[]\n"
            "    WHERE job_id = job;",
        ),
        ("planned_to = 0,", "planned_to = 0, paused = false,"),
    )
    redefine(
        "why_waiting",
        WHY_WAITING,
        ("cancel_requested_at, paused INTO", "cancel_requested_at, queues.paused, jobs.paused AS is_paused INTO"),
        (
            "ELSIF job.paused",
            "ELSIF job.is_paused AND job.state <> 'finalizing' THEN RETURN 'it is paused';\n    ELSIF job.paused",
        ),
    )
    op.execute(GRANTS)


def downgrade() -> None:
    lock_tables("jobs")
    redefine("retry_job", RETRY_JOB)
    redefine("why_waiting", WHY_WAITING)
    op.execute(OPEN_JOBS.format(and_not_paused=""))
    op.execute("""
        UPDATE work SET state = 'ready', run_after = NULL WHERE state = 'delayed' AND run_after = 'infinity';
        DROP FUNCTION change_job(uuid, jsonb), apply_change(uuid, integer), return_turns(text, text, bigint[]),
            checked_changes(jsonb);
        DROP TABLE change_requests;
        ALTER TABLE jobs DROP COLUMN paused;
        REVOKE EXECUTE ON FUNCTION announce(text, text) FROM darkroom_dispatcher;
        DELETE FROM schema_revisions WHERE revision = '0018';
    """)
