"""A house that shows what it was configured with, for the tests of refreshes."""
