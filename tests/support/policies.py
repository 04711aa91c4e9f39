"""The S3 policies of docs/security.md, and whether recorded calls keep to them."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
ACTIONS = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "HeadBucket": "s3:ListBucket",
}


def policy(part: str) -> list[tuple[str, str]]:
    """Return the pairs of an action and a pattern of resources that the document permits a part."""
    document = (ROOT / "docs/security.md").read_text()
    block = re.search(rf"{part}.*?```json\n(.*?)```", document.split("## S3 policies")[1], re.S)
    assert block is not None
    statements = json.loads(block[1])["Statement"]
    return [(action, resource) for one in statements for action in one["Action"] for resource in one["Resource"]]


def assert_permitted(record: Path, part: str) -> None:
    """Check the lines "OPERATION KEY" of a file."""
    permitted = policy(part)
    lines = set(record.read_text().splitlines())
    assert lines
    for line in sorted(lines):
        operation, _, key = line.partition(" ")
        action, resource = ACTIONS[operation], f"arn:aws:s3:::BUCKET/{key}".removesuffix("/")
        assert any(action == one and fnmatchcase(resource, pattern) for one, pattern in permitted), line
