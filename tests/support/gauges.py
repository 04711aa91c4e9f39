"""What a collector of Prometheus reports."""

from services.exporter import QueueCollector


def read_gauges(collector: QueueCollector) -> dict[str, float]:
    """Return every sample of a fresh reading, by name and labels."""
    collector._read_at = -1e9
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in collector.collect()
        for sample in family.samples
    }
