"""Clients of the three kinds of store, opened the same way by every house.

Creating one opens nothing: the first use connects, so that an application can be loaded before
its workers are forked. Every wait has an end, and a store that is away is an `UnavailableError`.
"""
