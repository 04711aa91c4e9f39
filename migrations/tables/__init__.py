"""The tables of Darkroom, as a reference. The migrations create them, and a test checks that both agree.

docs/sql.md explains the columns, and docs/state_machine.md the states.
"""

from migrations.tables import jobs, processes, releases, tenants
from migrations.tables.base import metadata

__all__ = ["jobs", "metadata", "processes", "releases", "tenants"]
