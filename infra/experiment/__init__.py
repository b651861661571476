"""The comparison's outside: a log in Parquet to arrays, boosting, the configuration, the report."""
