"""The estate as local processes: the real servers and our services, under one data folder."""

from deploy.local.estate import Estate, EstateError

__all__ = ["Estate", "EstateError"]
