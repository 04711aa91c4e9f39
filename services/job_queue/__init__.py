"""All SQL on jobs, work, outputs, queues, tenants and processes.

Postgres holds the truth. A claim leases work to a process under a fencing token that no other claim ever has; every
later write names the token and fails once the lease has changed hands. Every transition is guarded by the present
state. docs/state_machine.md shows all of them.

states         the states of jobs and work
clients        submit, find, cancel and retry jobs, with a client's login
plan           the JSON of a planned request
planning       a submitted job becomes shards, or is rejected
claims         lease work whose turn it is
worker_claims  what a worker remembers between its claims
leases         what a lease is, and how it ends
jobs           sampling a planned job, finalizing, its end
outputs        images: settled, stored, failed
maintenance    delayed work, lost processes, jobs to stop
processes      registration and heartbeats
queues, tenants, load, expiry, notifications
"""
