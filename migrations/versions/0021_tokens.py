"""Tokens with which programs of a tenant use the HTTP API."""

from alembic import op

revision = "0021"
down_revision = "0020"

# The text of a token is shown once and not stored. It has 256 random bits, so a plain hash cannot be guessed back.
TABLE = """
CREATE TABLE api_tokens (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant       text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    name         text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    digest       text NOT NULL UNIQUE CHECK (digest ~ '^[0-9a-f]{64}$'),
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'submit']),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_tokens_by_tenant ON api_tokens (tenant);
"""

# Whose token it is, if it is valid. The time of its use is recorded once a minute at most, so that requests do not
# wait for each other.
FUNCTION = """
CREATE FUNCTION use_api_token(digest text) RETURNS TABLE (id uuid, tenant text, name text, scopes text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE api_tokens AS t SET last_used_at = now() WHERE t.id IN (
        SELECT o.id FROM api_tokens AS o WHERE o.digest = use_api_token.digest
            AND (o.last_used_at IS NULL OR o.last_used_at < now() - interval '1 minute') FOR NO KEY UPDATE SKIP LOCKED);
    RETURN QUERY SELECT t.id, t.tenant, t.name, t.scopes FROM api_tokens AS t
        WHERE t.digest = use_api_token.digest AND t.revoked_at IS NULL AND t.expires_at > now();
END $$;
"""

RIGHTS = """
REVOKE ALL ON FUNCTION use_api_token(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION use_api_token(text) TO darkroom_console;
INSERT INTO schema_revisions VALUES ('0021', '0005');
"""


def upgrade() -> None:
    for part in (TABLE, FUNCTION, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP FUNCTION use_api_token(text);
        DROP TABLE api_tokens;
        DELETE FROM schema_revisions WHERE revision = '0021';
    """)
