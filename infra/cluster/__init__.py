"""One broker and one Flink on this machine, everything below one directory."""
