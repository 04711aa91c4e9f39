"""Every Prometheus metric of the workers and dispatchers.

A worker serves the registry WORKER, a dispatcher DISPATCHER and a console COMMON, so that a metric has a series for
each process that can change it, and for no other. A label whose values are known has a series for each of them from the
start: Prometheus sees no increase in a series that begins at 1.

A worker process has one GPU. On a GPU the time of a step is the time of its launch. The process waits for launched
steps while it decodes images, so rates over a minute are right.
"""

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

WORKER, DISPATCHER, COMMON = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
WAITS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)

# -- the engine ----------------------------------------------------------------------------------

STEP_SECONDS = Histogram("darkroom_step_seconds", "One denoising step of all rows.", buckets=STEPS, registry=WORKER)
DECODE_SECONDS = Histogram(
    "darkroom_decode_seconds", "Decoding one group of latents to images.", buckets=STEPS, registry=WORKER
)
ROWS = Gauge("darkroom_rows", "Network rows of every step.", registry=WORKER)
ROWS_USED_TOTAL = Counter(
    "darkroom_rows_used", "Rows that images used; divided by steps x rows, how full the batch is.", registry=WORKER
)
IMAGES_UNUSABLE = Counter(
    "darkroom_images_unusable",
    "Images that the engine could not make, while those beside it were made.",
    ["reason"],
    registry=WORKER,
)
NOT_FINITE = Counter(
    "darkroom_images_not_finite",
    "Images with NaN or infinite values, by release and precision.",
    ["release", "precision"],
    registry=WORKER,
)
IMAGES_UNDER_WAY = Gauge("darkroom_images_under_way", "Images in the batch or waiting to join it.", registry=WORKER)

# -- the worker ----------------------------------------------------------------------------------

PICK_UP_SECONDS = Histogram(
    "darkroom_pick_up_seconds",
    "Seconds from a job's submission, or from its run_after, to its first claim.",
    ["queue"],
    buckets=WAITS,
    registry=WORKER,
)
LOAD_SECONDS = Histogram(
    "darkroom_release_load_seconds", "Downloading and loading a release.", buckets=WAITS, registry=WORKER
)
SERVES = Gauge("darkroom_serves", "1 for each queue that this worker serves.", ["queue"], registry=WORKER)
RELEASES_LOADED = Gauge("darkroom_releases_loaded", "Releases in memory.", registry=WORKER)
CACHE_FAILURES = Counter(
    "darkroom_release_cache_failures", "Releases that the disk of this worker could not hold.", registry=WORKER
)
RELEASES_PAUSED = Gauge(
    "darkroom_releases_paused", "Releases that the disk of this worker cannot hold at present.", registry=WORKER
)
LEASES_HELD = Gauge("darkroom_leases_held", "Leases that this worker holds.", registry=WORKER)
SHARDS_ENDED = Counter("darkroom_shards_ended", "Leases that ended, by how they ended.", ["end"], registry=WORKER)
ENCODE_SECONDS = Histogram(
    "darkroom_encode_seconds", "Encoding an image to a file.", ["format"], buckets=STEPS, registry=WORKER
)
UPLOAD_SECONDS = Histogram(
    "darkroom_upload_seconds", "Storing an image file and settling the image.", buckets=STEPS, registry=WORKER
)
UPLOADS_UNDER_WAY = Gauge("darkroom_uploads_under_way", "Finished images that are not settled yet.", registry=WORKER)
IMAGES = Counter("darkroom_images", "Settled images.", ["outcome"], registry=WORKER)
PROFILE_SHRINKS = Counter(
    "darkroom_profile_shrinks", "Times that the device ran out of memory and rows were halved.", registry=WORKER
)
PROFILE_FALLBACKS = Counter(
    "darkroom_profile_fallbacks",
    "Times that auto continued with a slower profile, by the profile that could not be used.",
    ["profile"],
    registry=WORKER,
)
COMPILE_CACHE = Counter(
    "darkroom_compile_cache", "Compile caches that were loaded, made or not used.", ["outcome"], registry=WORKER
)

# -- the dispatcher ------------------------------------------------------------------------------

JOBS_PLANNED = Counter("darkroom_jobs_planned", "Jobs that were planned or rejected.", ["outcome"], registry=DISPATCHER)
JOBS_FINISHED = Counter(
    "darkroom_jobs_finished", "Jobs that were finalized, by their final state.", ["state"], registry=DISPATCHER
)
RESCUES = Counter("darkroom_rescues", "Work recovered from lost processes.", registry=DISPATCHER)
WEBHOOKS = Counter("darkroom_webhooks", "Attempts at sending an event to a webhook.", ["outcome"], registry=DISPATCHER)
SET_ASIDE = Counter(
    "darkroom_set_aside", "Rows that could not be handled and were set aside.", ["loop"], registry=DISPATCHER
)
LOOP_FAILURES = Counter(
    "darkroom_loop_failures", "Rounds of a part of the dispatcher's loop that failed.", ["loop"], registry=DISPATCHER
)
LOCK_MISSES = Counter(
    "darkroom_lock_misses", "Rounds that found a lock of the service held elsewhere.", ["lock"], registry=DISPATCHER
)
SILENT_ATTEMPTS = Gauge(
    "darkroom_silent_attempts", "Plans and finalizing under way without progress for 30 s.", registry=DISPATCHER
)
CLIENT_SESSIONS_ENDED = Counter(
    "darkroom_client_sessions_ended",
    "Sessions of clients that were ended because their transaction was too old.",
    registry=DISPATCHER,
)

# -- workers and dispatchers ---------------------------------------------------------------------

BROKER_UP = Gauge("darkroom_broker_up", "Whether the broker answered when it was last used.", registry=None)
WORKER.register(BROKER_UP)
DISPATCHER.register(BROKER_UP)

# -- all -----------------------------------------------------------------------------------------

RETRIES = Counter(
    "darkroom_retries", "Failed attempts that are retried, without transient errors.", ["kind"], registry=None
)
STORE_ERRORS = Counter(
    "darkroom_object_store_errors",
    "Requests to S3 that failed after the client's own retries.",
    ["operation"],
    registry=None,
)
DATABASE_ERRORS = Counter(
    "darkroom_database_errors", "Transactions that failed because Postgres was unavailable.", registry=None
)

for registry in (WORKER, DISPATCHER, COMMON):
    for collector in (RETRIES, STORE_ERRORS, DATABASE_ERRORS, PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
for outcome in ("stored", "failed"):
    IMAGES.labels(outcome)
for outcome in ("delivered", "failed", "dead"):
    WEBHOOKS.labels(outcome)
LOCK_MISSES.labels("reconcile")
