"""Our gateway beside the JVM's and a plain proxy: same machine, backend and load, in turns."""
