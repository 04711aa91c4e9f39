"""The console: pages over everything that exists, for people who look at images rather than write SQL.

Handlers in `pages/` have a few lines each. SQL is in `job_queue` and `registry`; row-level security decides what a
viewer sees. Templates and scripts are files of this package, and need no build.
"""
