from .config import IngestConfig as IngestConfig
from .job import ingest as ingest
from .publish import summary as summary
