"""Eureka: the registry of who is running where.

`Instance` and `RegistryView` are all that a worker needs. What talks to the server (`rest`,
`registrar`) is imported by the one process of an instance that does so.
"""

from cloud.eureka.instance import Instance
from cloud.eureka.view import RegistryView, view

__all__ = ["Instance", "RegistryView", "view"]
