"""Functions of an earlier revision, defined again with other text in places."""

import re

from alembic import op


def redefine(function: str, definition: str, *replacements: tuple[str, str]) -> None:
    """Replace a function by an earlier definition of it with other text in places, each of which must be there."""
    *_, start = re.finditer(rf"CREATE (OR REPLACE )?(?=FUNCTION {function}\()", definition)
    body = definition[start.end() :].split("END $$;")[0] + "END $$;"
    for old, new in replacements:
        assert old in body, old
        body = body.replace(old, new)
    op.execute(f"CREATE OR REPLACE {body}")
