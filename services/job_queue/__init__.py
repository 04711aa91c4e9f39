"""All queue SQL.

Postgres is the truth. A claim leases work to a process under a fencing token that no other claim ever gets; every
later write names the token and fails once the lease has gone to somebody else. Every transition is guarded by the
present state. docs/state_machine.md shows them all.

leases: processes, claims, and how a lease ends. jobs: from planning to the manifest. upkeep: what nobody holds.
"""
