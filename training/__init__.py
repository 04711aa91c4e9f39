import os

# Set before torch, which loads OpenMP: how often a thread that waits for the others looks before it sleeps. It is the
# count that libgomp takes where it knows of more threads than cores. Beside another busy process, or under a
# container's CPU limit, it does not know, spins for a millisecond at each of thousands of barriers, and takes the core
# from the thread that it waits for: on two shared cores training was eight times slower so, and on free ones no faster.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
