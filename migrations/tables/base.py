"""The base class of all tables."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, DateTime, Double, Integer, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase

metadata = MetaData()


class Table(DeclarativeBase):
    """The Postgres type of each Python type."""

    metadata = metadata
    type_annotation_map = {  # noqa: RUF012
        str: Text(),
        int: Integer(),
        float: Double(),
        uuid.UUID: UUID(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text()),
    }
