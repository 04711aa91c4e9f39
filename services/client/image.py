"""One image of a job."""

import hashlib
import io
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from services.client.backend import Files
from services.client.errors import ClientError
from services.job_queue.outputs import Output

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@dataclass(frozen=True)
class Image:
    """An image that is stored.

    index: its place in the job. item: the place of its item in the request. profile: what it was computed on.
    """

    index: int
    item: int
    seed: int
    key: str
    sha256: str
    size: int  # bytes
    profile: str
    job_id: uuid.UUID = field(repr=False)
    files: Files = field(repr=False)

    @classmethod
    def of_output(cls, output: Output, job_id: uuid.UUID, files: Files) -> "Image":
        """Return the image that an output records. It must not be one that failed."""
        assert output.key is not None, output.error
        assert output.sha256 is not None
        assert output.seed is not None
        place = (output.index, output.item, output.seed, output.key, output.sha256)
        return cls(*place, output.bytes or 0, output.profile or "", job_id, files)

    @property
    def uri(self) -> str:
        """s3://BUCKET/KEY, or over HTTP the key alone."""
        return self.files.uri_of(self.key)

    def read(self) -> bytes:
        """Return the file. Raises ClientError if the object is gone, or is not the one that was stored."""
        body = self.files.read_image(self.job_id, self.index, self.key)
        if hashlib.sha256(body).hexdigest() != self.sha256:
            raise ClientError(f"{self.uri}: sha256 differs from the record; the object was changed")
        return body

    def open(self) -> "Picture":
        """Return the decoded image."""
        from PIL import Image as pillow

        with pillow.open(io.BytesIO(self.read())) as picture:
            picture.load()
        return picture

    def save(self, folder: str | Path) -> Path:
        """Write the file to a folder, under the name of its object, and return its path."""
        path = Path(folder) / Path(self.key).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.read())
        return path

    def link(self, lifetime: timedelta = timedelta(hours=1)) -> str:
        """Return an address from which anyone can download the image until `lifetime` has passed, at most 7 days.

        Raises ClientError over HTTP: links are signed with credentials of the bucket.
        """
        return self.files.link(self.key, lifetime)
