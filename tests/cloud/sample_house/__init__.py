"""A tiny house for the tests of what serves, registers and calls houses."""
