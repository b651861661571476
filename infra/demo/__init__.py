"""`make demo`: the whole loop on the bundled log, and the jobs' configuration for it."""
