"""A house whose one caller does as it is told, for the tests of breakers."""
