"""Error messages for people about S3."""

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from services.environment import advise
from training.errors import summarise

CHECKS = {
    401: "DARKROOM_S3_ACCESS_KEY_ID and DARKROOM_S3_SECRET_ACCESS_KEY",
    403: "DARKROOM_S3_ACCESS_KEY_ID and DARKROOM_S3_SECRET_ACCESS_KEY, and what they may do",
    404: "DARKROOM_S3_BUCKET",
}


def describe_store_error(error: BaseException) -> str | None:
    """Return one line about an error of S3 and what to do, or None for any other error."""
    if isinstance(error, BotoCoreError) and not isinstance(error, ParamValidationError):
        return f"S3 does not answer ({summarise(error)}). {advise('DARKROOM_S3_ENDPOINT_URL')}"
    if not isinstance(error, ClientError):
        return None
    if error.response.get("Error", {}).get("Code") == "NoSuchKey":
        key = error.response["Error"].get("Key", "of this key")
        return f"S3 has no object {key}: it was removed, or was never stored."
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    check = CHECKS.get(status or 0, "DARKROOM_S3_ENDPOINT_URL and DARKROOM_S3_REGION")
    return f"S3 refuses a request ({summarise(error)}). Check {check}."
