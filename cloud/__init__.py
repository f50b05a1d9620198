"""What every house stands on: the part Spring Cloud plays for a JVM service."""

from cloud import lean as lean  # before anything that imports the libraries it loads

__version__ = "0.1.0"
