"""The door: match a route, run its filters, call the upstream."""
