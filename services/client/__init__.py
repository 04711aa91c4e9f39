"""A client for Python programs: submit jobs, wait for them, and read their images.

    from services.client import Darkroom

    with Darkroom() as darkroom:
        job = darkroom.submit("digits@production", {"items": [{"class_label": 3}], "images_per_item": 16})
        for image in job.images():  # each as soon as it is stored
            image.save("images")
        print(job.status().state)

It uses the tenant's own login to Postgres and its own credentials for S3, as any other client does (docs/sql.md). With
`Darkroom(url="https://pictures.example.com", token="darkroom_...")` it uses the HTTP API instead (docs/api.md).
"""

from services.client.darkroom import Darkroom
from services.client.errors import ClientError, JobNotFound
from services.client.image import Image
from services.client.job import Job
from services.job_queue.job_filters import JobFilter
from services.job_queue.states import JobState

__all__ = ["ClientError", "Darkroom", "Image", "Job", "JobFilter", "JobNotFound", "JobState"]
