"""The breakers of an instance, as Resilience4j shows them to Spring Boot."""

import struct


def percent(rate: float) -> str:
    """Write a rate as Java writes a float: the fewest digits that tell it from its neighbours."""
    bits = struct.pack("<f", rate)
    (single,) = struct.unpack("<f", bits)
    texts = (f"{single:.{digits}g}" for digits in range(1, 10))
    text = next(text for text in texts if struct.pack("<f", float(text)) == bits)
    return f"{float(text)}%"
