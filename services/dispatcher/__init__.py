"""Plans jobs, finalizes them, sends hints and recovers work from lost processes. Needs no GPU."""
