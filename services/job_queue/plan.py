"""A plan: a request with every default filled in and the seed drawn, as the database stores it."""

from typing import Any, NotRequired, TypedDict

# Conditions as the release's JSON Schema describes them, and optionally id, metadata, seed and sampling fields.
Item = dict[str, Any]


class InputReference(TypedDict):
    """The object whose lines are the items. The planner adds the ETag of the version that it read.

    objects: the key of a JSON object that tells which lines are from which object, if there were several.
    """

    key: str
    etag: NotRequired[str]
    objects: NotRequired[str]


class OutputOptions(TypedDict):
    """How images are stored; see `services.job_requests.output_options`."""

    format: NotRequired[str]  # also in the plan itself
    quality: NotRequired[int]  # of JPEG and WebP files, from 1 to 100
    name: NotRequired[str]  # a template with fields in braces
    thumbnail: NotRequired[int]  # pixels of the longer side
    metadata: NotRequired[bool]  # whether a file says of which job it is
    archive: NotRequired[str]  # tar or parquet: the images are also stored in archives
    archive_mib: NotRequired[int]  # of an archive, at most


class Plan(TypedDict):
    """The JSON of `jobs.plan`. It has either `items` or `input`.

    JSON does not tell 5.0 from 5: a client may give a seed or steps as 5.0, and the plan keeps them so.
    """

    items: NotRequired[list[Item]]
    first_item: NotRequired[int]  # the number of items[0], in a plan of which a worker has read the items of one shard
    input_uri: NotRequired[str]
    input: NotRequired[InputReference]
    read_at: NotRequired[str]  # when planning was done, by the clock of the store; only if items may refer to objects
    interpolate: NotRequired[dict[str, Any]]  # only until it is expanded to items
    grid: NotRequired[dict[str, list[Any]]]  # only until it is expanded to items
    axes: NotRequired[list[list[Any]]]  # [field, values] of the grid that the items come from; the last changes first
    images_per_item: int
    seed: int
    steps: int
    solver: str
    spacing: str
    eta: NotRequired[float]
    variations: NotRequired[float]
    guidance_scale: float
    guidance_interval: list[float]  # [low, high], shares of the schedule in [0, 1]
    guidance_rescale: float
    negative: NotRequired[Item]  # conditions that take the place of the null condition
    image: NotRequired[str]  # in base64, or the URI of an object
    mask: NotRequired[str]  # as the image
    strength: NotRequired[float]
    size: NotRequired[list[int]]  # [width, height]
    decoder: NotRequired[str]  # full, as if there were none, or light
    own_area: NotRequired[int]  # pixels of the release's own size; only if items may have another
    format: str  # png, jpeg or webp
    output: NotRequired[OutputOptions]
    output_prefix: str
    then: NotRequired[list[dict[str, Any]]]  # the later stages of a chain; see `chain_rules.plan_entries`
    dry_run: NotRequired[bool]  # such a plan is never stored
