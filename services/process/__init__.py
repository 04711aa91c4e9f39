"""What every long-running process has: a heartbeat, a watchdog, health checks and the Celery app."""
