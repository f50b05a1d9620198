"""The proof: a JVM neighbour in the same estate, and the tools of its operators."""
