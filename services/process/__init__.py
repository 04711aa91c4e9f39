"""Parts of every long-running process: a heartbeat, a watchdog, health checks and the Celery app."""
