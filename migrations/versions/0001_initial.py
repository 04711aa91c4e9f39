"""Tenants, jobs, leased work, outputs, workers and releases, and the roles that may use them."""

from alembic import op

revision = "0001"
down_revision = None

GROUPS = ("darkroom_submitter", "darkroom_dispatcher", "darkroom_worker", "darkroom_publisher")

# Roles belong to the whole server, so another database may have created them already.
ROLES = f"""
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY{list(GROUPS)!r} LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO {", ".join(GROUPS)};
"""

# RFC 9562, section 5.7: 48 bits of milliseconds, then random bits. Postgres 18 has this function.
UUIDV7 = """
DO $$
BEGIN
    IF to_regprocedure('uuidv7()') IS NULL THEN
        CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $f$
            SELECT encode(
                set_byte(
                    overlay(uuid_send(gen_random_uuid())
                        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                        FROM 1 FOR 6),
                    6, 112 | (get_byte(uuid_send(gen_random_uuid()), 0) & 15)),
                'hex')::uuid
        $f$;
    END IF;
END $$;
"""

TABLES = """
CREATE TABLE tenants (
    name               text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    login              text UNIQUE,
    permitted_releases text[] NOT NULL DEFAULT '{*}',
    write_prefixes     text[] NOT NULL CHECK (cardinality(write_prefixes) > 0)
);

CREATE TABLE queues (
    name   text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    paused boolean NOT NULL DEFAULT false
);

CREATE TABLE releases (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    version    integer NOT NULL CHECK (version > 0),
    kind       text NOT NULL CHECK (kind IN ('autoencoder', 'diffusion')),
    digest     text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    manifest   jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (name, version),
    UNIQUE (name, digest)
);

CREATE TABLE evaluations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id  bigint NOT NULL REFERENCES releases,
    fingerprint text NOT NULL,
    metrics     jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE aliases (
    name       text NOT NULL,
    alias      text NOT NULL CHECK (alias ~ '^[a-z][a-z_-]{0,62}$'),
    release_id bigint NOT NULL REFERENCES releases,
    PRIMARY KEY (name, alias)
);

CREATE TABLE promotions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    alias         text NOT NULL,
    from_release  bigint REFERENCES releases,
    to_release    bigint NOT NULL REFERENCES releases,
    promoted_by   text NOT NULL DEFAULT session_user,
    promoted_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE jobs (
    id              uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant          text NOT NULL REFERENCES tenants,
    queue           text NOT NULL DEFAULT 'default' REFERENCES queues,
    model           text NOT NULL CHECK (octet_length(model) BETWEEN 1 AND 200),
    request         jsonb NOT NULL,
    idempotency_key text CHECK (octet_length(idempotency_key) BETWEEN 1 AND 200),
    priority        smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    state           text NOT NULL DEFAULT 'submitted' CHECK (state IN
        ('submitted', 'planned', 'running', 'finalizing', 'succeeded', 'partial', 'failed', 'rejected')),
    reason          text,
    release_id      bigint REFERENCES releases,
    plan            jsonb,
    total           integer NOT NULL DEFAULT 0,
    succeeded       integer NOT NULL DEFAULT 0,
    failed          integer NOT NULL DEFAULT 0,
    manifest_key    text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    UNIQUE (tenant, idempotency_key),
    CONSTRAINT request_is_an_object CHECK (jsonb_typeof(request) = 'object'),
    CONSTRAINT request_is_at_most_4_mib CHECK (octet_length(request::text) <= 4194304)
);
CREATE INDEX jobs_by_tenant ON jobs (tenant, id DESC);

CREATE TABLE workers (
    id           uuid PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('dispatcher', 'worker')),
    host         text NOT NULL,
    pid          integer NOT NULL,
    profile      text,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    stopped_at   timestamptz
);

CREATE SEQUENCE work_token;

CREATE TABLE work (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    kind          text NOT NULL CHECK (kind IN ('plan', 'sample', 'finalize')),
    start         integer NOT NULL DEFAULT 0,
    stop          integer NOT NULL DEFAULT 0,
    queue         text NOT NULL,
    pack_key      text,
    priority      smallint NOT NULL DEFAULT 0,
    cost          bigint NOT NULL DEFAULT 0,
    state         text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'delayed', 'leased', 'done', 'failed')),
    attempts      integer NOT NULL DEFAULT 0,
    losses        integer NOT NULL DEFAULT 0,
    token         bigint,
    owner         uuid REFERENCES workers,
    lease_until   timestamptz,
    run_after     timestamptz,
    dispatched_at timestamptz,
    error         text,
    CHECK (start <= stop),
    CHECK ((state = 'leased') = (owner IS NOT NULL)),
    CHECK ((state = 'delayed') = (run_after IS NOT NULL))
);
-- Each index serves one statement of services/job_queue and contains only the rows that the statement reads.
CREATE INDEX work_to_sample ON work (priority DESC, id) WHERE state = 'ready' AND kind = 'sample';
CREATE INDEX work_to_dispatch ON work (priority DESC, id) WHERE state = 'ready' AND kind <> 'sample';
CREATE INDEX work_by_owner ON work (owner) WHERE state = 'leased';
CREATE INDEX work_delayed ON work (run_after) WHERE state = 'delayed';
CREATE INDEX work_open_by_job ON work (job_id) WHERE state IN ('ready', 'delayed', 'leased');

CREATE TABLE outputs (
    job_id     uuid NOT NULL,
    index      integer NOT NULL,
    item       integer NOT NULL,
    seed       bigint NOT NULL,
    key        text,
    sha256     text,
    bytes      bigint,
    profile    text,
    error      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, index),
    CONSTRAINT image_or_error CHECK ((error IS NULL) = (key IS NOT NULL AND sha256 IS NOT NULL AND bytes IS NOT NULL))
) PARTITION BY RANGE (job_id);
CREATE TABLE outputs_all PARTITION OF outputs DEFAULT;

INSERT INTO queues (name) VALUES ('default');
INSERT INTO tenants (name, write_prefixes) VALUES ('default', '{outputs/default}');
"""

# A job belongs to the tenant whose login opened the session; session_user does not change with SET ROLE.
# The owner of the tables acts for the tenant "default".
SUBMITTING = """
CREATE FUNCTION current_tenant() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(
        (SELECT name FROM tenants WHERE login = session_user),
        (SELECT 'default' FROM pg_tables
         WHERE schemaname = 'public' AND tablename = 'jobs' AND pg_has_role(session_user, tableowner, 'MEMBER')))
$$;

CREATE FUNCTION accept_job() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    NEW.tenant := current_tenant();
    IF NEW.tenant IS NULL THEN
        RAISE EXCEPTION 'login "%" belongs to no tenant', session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator adds one: darkroom db add-tenant NAME';
    END IF;
    IF NOT EXISTS (SELECT FROM queues WHERE name = NEW.queue) THEN
        RAISE EXCEPTION 'queue: "%" does not exist', NEW.queue
            USING ERRCODE = 'foreign_key_violation',
                  HINT = 'Permitted: ' || (SELECT string_agg(name, ', ' ORDER BY name) FROM queues);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER accept_job BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION accept_job();

CREATE FUNCTION enqueue_plan() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO work (job_id, kind, queue, priority) VALUES (NEW.id, 'plan', NEW.queue, NEW.priority);
    RETURN NULL;
END $$;
CREATE TRIGGER enqueue_plan AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION enqueue_plan();

-- One constant message a statement: the listener polls for what there is to do.
CREATE FUNCTION announce_work() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY darkroom_work;
    RETURN NULL;
END $$;
CREATE TRIGGER announce_work AFTER INSERT ON work FOR EACH STATEMENT EXECUTE FUNCTION announce_work();
"""

GRANTS = """
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE outputs ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON FUNCTION current_tenant(), accept_job(), enqueue_plan(), announce_work() FROM PUBLIC;

GRANT SELECT ON jobs, outputs TO darkroom_submitter;
GRANT INSERT (model, request, queue, priority, idempotency_key) ON jobs TO darkroom_submitter;
GRANT EXECUTE ON FUNCTION current_tenant() TO darkroom_submitter;
CREATE POLICY own_jobs_read ON jobs FOR SELECT TO darkroom_submitter USING (tenant = (SELECT current_tenant()));
CREATE POLICY own_jobs_submit ON jobs FOR INSERT TO darkroom_submitter
    WITH CHECK (tenant = (SELECT current_tenant()));
CREATE POLICY own_outputs_read ON outputs FOR SELECT TO darkroom_submitter
    USING (EXISTS (SELECT FROM jobs WHERE jobs.id = outputs.job_id));

CREATE POLICY every_job ON jobs TO darkroom_dispatcher, darkroom_worker USING (true) WITH CHECK (true);
CREATE POLICY every_output ON outputs TO darkroom_dispatcher, darkroom_worker USING (true) WITH CHECK (true);
GRANT SELECT ON tenants, queues, releases, aliases, jobs, outputs, work TO darkroom_dispatcher;
GRANT UPDATE (state, reason, release_id, plan, total, succeeded, failed, manifest_key, started_at, finished_at)
    ON jobs TO darkroom_dispatcher;
GRANT INSERT, UPDATE ON work TO darkroom_dispatcher;
GRANT INSERT ON outputs TO darkroom_dispatcher;

GRANT SELECT ON queues, releases, jobs, outputs, work TO darkroom_worker;
GRANT UPDATE (state, succeeded, failed, started_at) ON jobs TO darkroom_worker;
GRANT INSERT, UPDATE ON work TO darkroom_worker;
GRANT INSERT ON outputs TO darkroom_worker;

GRANT SELECT, INSERT, UPDATE ON workers TO darkroom_dispatcher, darkroom_worker;
GRANT USAGE ON SEQUENCE work_token TO darkroom_dispatcher, darkroom_worker;

GRANT SELECT, INSERT ON releases, evaluations, promotions TO darkroom_publisher;
GRANT SELECT, INSERT, UPDATE ON aliases TO darkroom_publisher;
"""


def upgrade() -> None:
    for part in (ROLES, UUIDV7, TABLES, SUBMITTING, GRANTS):
        op.execute(part)


def downgrade() -> None:
    # The roles stay, because other databases of the server may use them.
    op.execute("""
        DROP TABLE outputs, work, jobs, workers, promotions, aliases, evaluations, releases, queues, tenants;
        DROP SEQUENCE work_token;
        DROP FUNCTION current_tenant(), accept_job(), enqueue_plan(), announce_work();
        GRANT CREATE ON SCHEMA public TO PUBLIC;
    """)
