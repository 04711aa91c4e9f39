import os

# Set before torch loads OpenMP: how often a waiting thread checks a barrier before it sleeps. libgomp uses this count
# itself when it runs more threads than cores. Next to another busy process, or under a container's CPU limit, it does
# not know that: it spins for a millisecond at each of thousands of barriers and occupies the core of the thread that it
# waits for. On two shared cores this made training eight times slower; on free cores the setting costs nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
