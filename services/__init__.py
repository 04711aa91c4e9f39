import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # the reason is in training/__init__.py; here torch may come first
