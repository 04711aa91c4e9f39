"""Tags that a JSON document gives are a list of texts. A list within it was accepted, as a text with brackets."""

from importlib import import_module

from alembic import op

from migrations.redefining import redefine

revision = "0037"
down_revision = "0036"

CHECKS = import_module("migrations.versions.0017_tags").CHECKS
# Without "strict", a filter looks at the elements of a list that is an element.
NO_LISTS = ("given @? '$[*]", "given @? 'strict $[*]")


def upgrade() -> None:
    redefine("given_tags", CHECKS, NO_LISTS)
    op.execute("INSERT INTO schema_revisions VALUES ('0037', '0005')")


def downgrade() -> None:
    redefine("given_tags", CHECKS)
    op.execute("DELETE FROM schema_revisions WHERE revision = '0037'")
