"""Notification on the real document store, Redis and RabbitMQ."""
