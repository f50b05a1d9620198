"""What every house stands on: the part Spring Cloud plays for a JVM service."""

__version__ = "0.1.0"
