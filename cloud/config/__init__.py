"""Spring properties: where they come from, what they mean, and the instance that holds them."""

from cloud.config.bootstrap import Environment, environment, load
from cloud.config.properties import Properties
from cloud.config.sources import PropertySource, PropertyValue

__all__ = ["Environment", "Properties", "PropertySource", "PropertyValue", "environment", "load"]
