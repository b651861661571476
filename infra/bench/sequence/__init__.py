"""The sequence job against a job that does nothing, on its own broker and Flink cluster; files are stages."""
